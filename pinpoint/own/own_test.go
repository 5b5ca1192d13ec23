// Package own holds scenarios of our own invention: refusals of every layer and every form of input, with the
// verdict that they must get. They were written down before the answers of the code were looked at.
package own

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
	"github.com/whygate/whygate/pinpoint/input"
	"github.com/whygate/whygate/pinpoint/replay"
	"github.com/whygate/whygate/pinpoint/report"
)

var quiet = log.New(io.Discard, "", 0)

// readNow is the time of the recorded scenarios.
var readNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var tokenMark = regexp.MustCompile(`@jwt(\{.*?\})@`)

// recorded reads the scenarios in which nothing is sent: fields, a line of dashes, the input.
func recorded(t *testing.T) (list []scenario) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := tokenMark.ReplaceAllStringFunc(string(b), func(m string) string {
			return "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0." + base64.RawURLEncoding.EncodeToString([]byte(tokenMark.FindStringSubmatch(m)[1])) + ".c2lnbmF0dXJlLW9mLW5vYm9keQ"
		})
		head, body, ok := strings.Cut(text, "\n---\n")
		if !ok {
			t.Fatalf("%s has no line of dashes", file)
		}
		s := scenario{name: strings.TrimSuffix(filepath.Base(file), ".txt"), text: body, now: true}
		for line := range strings.SplitSeq(head, "\n") {
			key, value, _ := strings.Cut(line, ": ")
			switch {
			case strings.HasPrefix(line, "#"):
			case key == "input":
				s.kind = value
			case key == "url":
				s.url = value
			case key == "environment":
				s.env = value
			case key == "cause":
				s.causes = strings.Fields(value)
			case key == "refuser":
				s.refusers = strings.Fields(value)
			case key == "not":
				s.not = value
			case key == "says":
				s.says = value
			case key == "secret":
				s.secrets = append(s.secrets, value)
			case key == "outcome":
				for _, o := range strings.Fields(value) {
					s.outcomes = append(s.outcomes, pinpoint.Outcome(o))
				}
			default:
				t.Fatalf("%s: %q is no field", file, line)
			}
		}
		list = append(list, s)
	}
	return list
}

// read makes the case of a scenario.
func (s *scenario) read() (*pinpoint.Case, error) {
	allow := input.Allow()
	switch s.kind {
	case "curl":
		return input.Curl(s.text, allow)
	case "args":
		return input.Args(strings.Fields(s.text), allow)
	case "har":
		h, err := input.HAR(strings.NewReader(s.text))
		if err != nil {
			return nil, err
		}
		return h.Only()
	case "postman":
		var env []byte
		if s.env != "" {
			env = []byte(s.env)
		}
		p, err := input.Postman([]byte(s.text), env)
		if err != nil {
			return nil, err
		}
		return p.Only()
	case "raw":
		return input.Raw(s.text, input.RawOptions{Files: allow})
	case "log":
		return input.Log(s.text, s.url)
	}
	return nil, fmt.Errorf("no input of kind %q", s.kind)
}

// diagnosed runs a scenario from its input to its reports.
func diagnosed(t *testing.T, s *scenario) (diagnose.Result, *tally) {
	t.Helper()
	n := &tally{}
	s.start(t, n)
	c, err := s.read()
	var bad *input.Error
	if errors.As(err, &bad) && slices.Contains(s.outcomes, pinpoint.InputIncomplete) { // not even the host is known
		return diagnose.Result{Case: &pinpoint.Case{}, Verdict: pinpoint.Verdict{Outcome: pinpoint.InputIncomplete, Cause: "input-incomplete", Sentence: bad.Error()}}, n
	}
	if err != nil {
		t.Fatalf("reading the input: %v", err)
	}
	o := diagnose.Options{Offline: s.serve == nil, Replay: replay.Options{Send: replay.SenderOptions{Pace: -1}}}
	if s.now {
		o.Now = func() time.Time { return readNow }
	}
	if s.options != nil {
		s.options(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := diagnose.Run(ctx, c, o)
	if err != nil {
		t.Fatalf("diagnosing: %v", err)
	}
	return r, n
}

// whole is everything that a verdict says, as JSON and as a page.
func whole(t *testing.T, r diagnose.Result) string {
	t.Helper()
	b, err := json.Marshal(r.Verdict)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	p := report.Page{Verdict: r.Verdict, At: readNow}
	if x := r.Case.Exchange(); x != nil && x.Request != nil {
		p.Method, p.URL = x.Request.Method, x.Request.URL
	}
	if err := report.HTML(&page, p); err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	for _, part := range []any{r.Verdict, r.Bisection} {
		e := json.NewEncoder(&plain)
		e.SetEscapeHTML(false)
		if err := e.Encode(part); err != nil {
			t.Fatal(err)
		}
	}
	return string(b) + page.String() + plain.String()
}

// miss says why a verdict is not the right one, "" if it is.
func (s *scenario) miss(v *pinpoint.Verdict, text string) string {
	switch {
	case !slices.Contains(s.causes, v.Cause) && !(v.Cause == "" && slices.Contains(s.causes, "refuser-only")): // "": not even who is known
		return "the cause"
	case !slices.Contains(s.outcomes, v.Outcome):
		return "the outcome"
	case s.refusers != nil && !slices.Contains(s.refusers, v.Refuser.Product):
		return "the refuser"
	case s.not != "" && v.Refuser.Product == s.not:
		return "the innocent hop"
	case s.says != "" && !strings.Contains(text, s.says):
		return fmt.Sprintf("it does not say %q", s.says)
	case (v.Outcome == pinpoint.Proved || v.Outcome == pinpoint.Likely) && len(v.Fix.Steps) == 0:
		return "no fix"
	case v.Outcome == pinpoint.Unknown && v.Next == "":
		return "no next step"
	}
	return ""
}

// Every verdict is right, but for two; none is wrong with proof; nothing unsafe leaves.
func TestScenarios(t *testing.T) {
	list := append(recorded(t), live...)
	if len(list) < 30 {
		t.Fatalf("%d scenarios, want at least 30", len(list))
	}
	right := 0
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			r, n := diagnosed(t, &s)
			v := &r.Verdict
			text := whole(t, r)
			detail := fmt.Sprintf("%s %s (%s, %.2f, grade %q), want %v %v\n%s\nnext: %s\n%s", v.Refuser.Product, v.Cause, v.Outcome, v.Confidence, v.Grade, s.causes, s.outcomes, v.Sentence, v.Next, clues(v))
			if r.Bisection != nil {
				detail += fmt.Sprintf("bisection %s, %d requests: %s\n", r.Bisection.Status, r.Bisection.Requests, r.Bisection.Says)
			}
			if why := s.miss(v, text); why == "" {
				right++
				t.Log(detail)
			} else {
				t.Logf("NOT RIGHT (%s): %s", why, detail)
				if v.Outcome == pinpoint.Proved && !slices.Contains(s.causes, v.Cause) {
					t.Errorf("a wrong verdict with proof")
				}
			}
			for _, secret := range s.secrets {
				if strings.Contains(text, secret) {
					t.Errorf("the secret %q is told", secret)
				}
			}
			most := cmp.Or(s.most, replay.Requests)
			if r.Bisection == nil && int(n.requests.Load()) > most {
				t.Errorf("%d requests, at most %d", n.requests.Load(), most)
			}
			if s.options == nil && n.unsafe.Load() > 0 {
				t.Errorf("%d unsafe requests without a flag", n.unsafe.Load())
			}
			if n.unsafe.Load() != n.marked.Load() || n.reached.Load() > 0 {
				t.Errorf("%d unsafe requests, %d marked, %d reached the application", n.unsafe.Load(), n.marked.Load(), n.reached.Load())
			}
		})
	}
	t.Logf("%d of %d right", right, len(list))
	if right < len(list)-2 {
		t.Errorf("%d of %d right, want all but two", right, len(list))
	}
}

// clues lists what a verdict rests on.
func clues(v *pinpoint.Verdict) string {
	var b strings.Builder
	for _, c := range v.Evidence {
		fmt.Fprintf(&b, "  %s %s %s %v %.1f: %s %q\n", c.Source, c.ID, c.Cause, c.Against, c.Weight, c.Says, c.Quote)
	}
	for _, e := range v.Experiments {
		fmt.Fprintf(&b, "  %s %s %s %d %s %v %s\n", e.Operator, e.Method, e.URL, e.Status, e.Shows, e.Flip, e.Skipped)
	}
	for _, a := range v.Alternatives {
		fmt.Fprintf(&b, "  else %s %.2f\n", a.Cause, a.Confidence)
	}
	for _, g := range v.Gaps {
		fmt.Fprintf(&b, "  gap %s %v\n", g.Kind, g.Blocks)
	}
	return b.String()
}
