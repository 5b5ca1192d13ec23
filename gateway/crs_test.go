package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	crstests "github.com/corazawaf/coraza-coreruleset/v4/tests"
	"go.yaml.in/yaml/v4"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/whytest"
)

// The regression tests of the OWASP Core Rule Set, in the format of go-ftw, against a node: each request goes
// over a socket as its test writes it, and which rules matched is read from the refusal. All of them run with
// WHYGATE_CRS=1 (make crs), a sample always.

// crsFile is one file of tests, for one rule.
type crsFile struct {
	Rule  int       `yaml:"rule_id"`
	Tests []crsTest `yaml:"tests"`
}

type crsTest struct {
	ID     int `yaml:"test_id"`
	Stages []struct {
		Input  crsInput  `yaml:"input"`
		Output crsOutput `yaml:"output"`
	} `yaml:"stages"`
	name, file string
}

type crsInput struct {
	Method         *string   `yaml:"method"`
	URI            *string   `yaml:"uri"`
	Version        *string   `yaml:"version"`
	Headers        yaml.Node `yaml:"headers"`
	Data           *string   `yaml:"data"`
	EncodedData    string    `yaml:"encoded_data"`
	EncodedRequest string    `yaml:"encoded_request"`
	Complete       *bool     `yaml:"autocomplete_headers"`
}

type crsOutput struct {
	Status      int  `yaml:"status"`
	ExpectError bool `yaml:"expect_error"`
	Log         struct {
		Expect   []int  `yaml:"expect_ids"`
		Reject   []int  `yaml:"no_expect_ids"`
		Match    string `yaml:"match_regex"`
		NotMatch string `yaml:"no_match_regex"`
	} `yaml:"log"`
}

// request is what goes over the socket.
func (in *crsInput) request() ([]byte, error) {
	if in.EncodedRequest != "" {
		return base64.StdEncoding.DecodeString(strings.ReplaceAll(in.EncodedRequest, "\n", ""))
	}
	or := func(s *string, otherwise string) string {
		if s == nil {
			return otherwise
		}
		return *s
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s", or(in.Method, "GET"), or(in.URI, "/"))
	if v := or(in.Version, "HTTP/1.1"); v != "" {
		fmt.Fprintf(&b, " %s", v)
	} else {
		b.WriteByte(' ')
	}
	b.WriteString("\r\n")
	data := []byte(repeat.ReplaceAllStringFunc(or(in.Data, ""), func(s string) string {
		m := repeat.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	}))
	if in.EncodedData != "" {
		var err error
		if data, err = base64.StdEncoding.DecodeString(in.EncodedData); err != nil {
			return nil, err
		}
	}
	has := map[string]bool{}
	for i := 0; i+1 < len(in.Headers.Content); i += 2 {
		name, value := in.Headers.Content[i].Value, in.Headers.Content[i+1].Value
		has[strings.ToLower(name)] = true
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if in.Complete == nil || *in.Complete {
		if len(data) > 0 && !has["content-type"] {
			b.WriteString("Content-Type: application/x-www-form-urlencoded\r\n")
		}
		if len(data) > 0 && !has["content-length"] && !has["transfer-encoding"] {
			fmt.Fprintf(&b, "Content-Length: %d\r\n", len(data))
		}
		if !has["connection"] {
			b.WriteString("Connection: close\r\n")
		}
	}
	b.WriteString("\r\n")
	b.Write(data)
	return b.Bytes(), nil
}

// repeat is the one template function that tests use.
var repeat = regexp.MustCompile(`\{\{ *"([^"]*)" *\| *repeat +(\d{1,6}) *\}\}`)

// crsTests are all tests, sorted by name.
func crsTests(t *testing.T) (all []crsTest) {
	err := fs.WalkDir(crstests.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".yaml" {
			return err
		}
		data, err := fs.ReadFile(crstests.FS, name)
		if err != nil {
			return err
		}
		var f crsFile
		if err := yaml.Unmarshal(data, &f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, c := range f.Tests {
			c.file = name
			c.name = fmt.Sprintf("%d-%d", f.Rule, c.ID)
			all = append(all, c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].file < all[j].file })
	return all
}

// reflect answers as a request to /reflect says; everything else is answered 200.
func reflect(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path != "/reflect" {
		io.WriteString(w, "ok")
		return
	}
	var spec struct {
		Status      int               `json:"status"`
		Headers     map[string]string `json:"headers"`
		Body        string            `json:"body"`
		EncodedBody string            `json:"encodedBody"`
	}
	if err := json.Unmarshal(body, &spec); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	for name, value := range spec.Headers {
		w.Header().Set(name, value)
	}
	answer := []byte(spec.Body)
	if spec.EncodedBody != "" {
		answer, _ = base64.StdEncoding.DecodeString(spec.EncodedBody)
	}
	if spec.Status > 0 {
		w.WriteHeader(spec.Status)
	}
	w.Write(answer)
}

// crsNode is a gateway whose refusals tell everything. Tests of requests and of answers need one each: what
// the answers are to say stands in the requests, which the rules would refuse.
func crsNode(t *testing.T, upstream, settings string) *whytest.Node {
	listen := whytest.GatewayDocument("wire", "  disclosure: {anonymous: operator}\n  limits: {underscores: allow}\n")
	return whytest.Start(t, "wire", listen+"---\n"+whytest.API(upstream, "/", "    - waf: {paranoia: 4, "+settings+"}"))
}

// crsOutcome is what became of a request.
type crsOutcome struct {
	status int
	reason string
	rules  []int
	told   string // the story of the rules
	sum    bool   // the scores of the rules make the score
}

func (o *crsOutcome) has(id int) bool { return slices.Contains(o.rules, id) }

func (in *crsInput) send(n *whytest.Node) (o crsOutcome, err error) {
	data, err := in.request()
	if err != nil {
		return o, err
	}
	nc, err := net.Dial("tcp", n.Addr())
	if err != nil {
		return o, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(2 * time.Minute)) // against hanging only
	go nc.Write(data)
	method, _, _ := strings.Cut(string(data), " ")
	res, err := http.ReadResponse(bufio.NewReader(nc), &http.Request{Method: method})
	if err != nil {
		return o, err
	}
	if _, err := io.ReadAll(res.Body); err != nil {
		return o, err
	}
	o.status, o.reason, o.sum = res.StatusCode, res.Header.Get("Whygate-Reason"), true
	if o.reason != "waf.blocked" && o.reason != "waf.response" {
		return o, nil
	}
	id, err := calllog.ParseID(res.Header.Get("Whygate-Call"))
	if err != nil {
		return o, err
	}
	rec, ok, err := n.Journal.Find(id) // it was written before the answer
	if err != nil || !ok {
		return o, fmt.Errorf("call %v has no record: %v", id, err)
	}
	d, err := gateway.DecodeDetail(rec.Detail)
	if err != nil || d.Verdict == nil {
		return o, fmt.Errorf("the record has no verdict: %v", err)
	}
	return o, o.read(d.Verdict.Facts)
}

// read takes the rules out of a refusal.
func (o *crsOutcome) read(facts reason.Facts) error {
	text := func(name string) string {
		f, _ := facts.Find(name, reason.ToOperator)
		if f.Value == nil {
			return ""
		}
		return f.Text()
	}
	o.told = text("why")
	for id := range strings.SplitSeq(text("rules"), ", ") {
		if n, err := strconv.Atoi(id); err == nil {
			o.rules = append(o.rules, n)
		}
	}
	// The refusal itself is what these rules say: the score has reached the threshold; and the report of a
	// refused call.
	denied, err := strconv.Atoi(text("denied_by"))
	switch {
	case err == nil:
		o.rules = append(o.rules, denied)
	case o.reason == "waf.blocked":
		o.rules = append(o.rules, 949110, 980170)
	default:
		o.rules = append(o.rules, 959100, 980170)
	}
	f, _ := facts.Find("matches", reason.ToOperator)
	matches, _ := f.Value.([]string)
	sum := 0
	for _, line := range matches {
		m, ok := policy.ParseWAFMatch(line)
		if !ok {
			return fmt.Errorf("the match %q cannot be read", line)
		}
		sum += m.Score
	}
	if o.sum = text("more") != "" || text("score") == strconv.Itoa(sum); !o.sum {
		o.told = fmt.Sprintf("score %s, the rules make %d: %s", text("score"), sum, strings.Join(matches, "; "))
	}
	return nil
}

// run is what is wrong, "" for nothing.
func (c *crsTest) run(requests, answers *whytest.Node) string {
	for i := range c.Stages {
		s := &c.Stages[i]
		n := requests
		if s.Input.URI != nil && strings.HasPrefix(*s.Input.URI, "/reflect") {
			n = answers
		}
		o, err := s.Input.send(n)
		if err != nil {
			if s.Output.ExpectError && len(s.Output.Log.Expect) == 0 {
				continue
			}
			return err.Error()
		}
		if want := s.Output.Status; want != 0 && o.status != want && !(want == 200 && o.reason == "waf.blocked") {
			// A test that wants 200 runs where the rules only log.
			return fmt.Sprintf("status %d (%s), wanted %d", o.status, o.reason, want)
		}
		for _, id := range s.Output.Log.Expect {
			if !o.has(id) {
				return fmt.Sprintf("rule %d did not match: %d %s %v", id, o.status, o.reason, o.rules)
			}
		}
		for _, id := range s.Output.Log.Reject {
			if o.has(id) {
				return fmt.Sprintf("rule %d matched: %s", id, o.told)
			}
		}
		if !o.sum {
			return "the scores do not add up: " + o.told
		}
	}
	return ""
}

// knownCRS reads the list of differences: a test and why a line.
func knownCRS(t *testing.T) map[string]string {
	data, err := os.ReadFile("testdata/crs-known.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, why, ok := strings.Cut(line, " ")
		if !ok || !regexp.MustCompile(`^\d+-\d+$`).MatchString(name) {
			t.Fatalf("crs-known.txt: %q is not a test and a reason", line)
		}
		known[name] = strings.TrimSpace(why)
	}
	return known
}

func TestCoreRuleSet(t *testing.T) {
	all := crsTests(t)
	if len(all) < 4600 {
		t.Fatalf("%d tests were found, want 4,600 at least", len(all))
	}
	full := os.Getenv("WHYGATE_CRS") != ""
	run := all
	if !full { // the first test of every second file and the last of the others
		run = nil
		for i, n := 0, 0; i < len(all); n++ {
			end := i
			for end < len(all) && all[end].file == all[i].file {
				end++
			}
			switch n % 3 {
			case 0:
				run = append(run, all[i])
			case 1:
				run = append(run, all[end-1])
			}
			i = end
		}
	}
	up := whytest.Upstream(t, reflect)
	// What the rule set's own runs have in their setup, which is off without it.
	setup := filepath.Join(t.TempDir(), "setup.conf")
	if err := os.WriteFile(setup, []byte(`SecAction "id:900001,phase:1,pass,t:none,nolog,\
    setvar:tx.max_num_args=255,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,\
    setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535,setvar:tx.crs_validate_utf8_encoding=1"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := "directives: " + setup + ", methods: [GET, HEAD, POST, OPTIONS], contentTypes: [application/x-www-form-urlencoded, multipart/form-data, text/xml, application/xml, application/soap+xml, application/json], maxBody: 1MiB"
	requests := crsNode(t, up.URL, settings+", threshold: 1")
	answers := crsNode(t, up.URL, settings+", threshold: 10000, responses: inspect, responseThreshold: 1")
	known := knownCRS(t)
	var mu sync.Mutex
	failed := map[string]string{}
	work := make(chan *crsTest)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for c := range work {
				if fault := c.run(requests, answers); fault != "" {
					mu.Lock()
					failed[c.name] = fault
					mu.Unlock()
				}
			}
		})
	}
	for i := range run {
		work <- &run[i]
	}
	close(work)
	wg.Wait()
	for i := range run {
		name := run[i].name
		fault, why := failed[name], known[name]
		switch {
		case fault != "" && why == "":
			t.Errorf("%s: %s", name, fault)
		case fault == "" && why != "":
			t.Errorf("%s passes, and is listed in testdata/crs-known.txt as: %s", name, why)
		}
	}
	t.Logf("%d of %d tests pass", len(run)-len(failed), len(run))
	if full && len(run)-len(failed) < 4650 {
		t.Error(errors.New("fewer than 4,650 pass"))
	}
}
