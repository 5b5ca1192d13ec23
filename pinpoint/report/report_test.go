package report

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

func sample() Page {
	return Page{
		Method: "GET", URL: "https://shop.acme.test/private/a.html?user=ann", Status: 403, At: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		Verdict: pinpoint.Verdict{
			Outcome: pinpoint.Proved, Cause: "fs-dir-no-search", Title: "A directory that the worker may not enter",
			Sentence: "nginx on web-1.acme.test may not enter /srv/acme/private as www-data.",
			Refuser:  pinpoint.Refuser{Product: "nginx", Hop: 2, Host: "web-1.acme.test"}, Layer: "files", Confidence: 0.97, Grade: "A",
			Evidence: []pinpoint.Clue{
				{Source: pinpoint.FromFiles, ID: "walk", Cause: "fs-dir-no-search", Weight: 6, Says: "/srv/acme/private is 0750 root:root; www-data is neither.", Names: map[string]string{"path": "/srv/acme/private"}, Hop: 2},
				{Source: pinpoint.FromLog, ID: "nginx-log-open-eacces", Cause: "fs-dir-no-search", Weight: 6, Says: "the error log names it", At: pinpoint.Place{File: "/var/log/nginx/acme-error.log", Line: 7},
					Quote: `open() "/srv/acme/private/a.html" failed (13: Permission denied), client: 203.0.113.9, mail ann@acme.test <script>alert(1)</script>` + "\x1b[31m"},
			},
			Experiments:  []pinpoint.Experiment{{Operator: "path-sibling", Class: pinpoint.S1, Says: "another file of the same directory", Method: "GET", URL: "https://shop.acme.test/private/b.html", Status: 403, Shows: "same"}},
			Alternatives: []pinpoint.Alternative{{Cause: "fs-file-unreadable", Title: "A file that the worker may not read", Confidence: 0.02, Separate: "a readable file in the same directory"}},
			Fix:          pinpoint.Fix{Owner: "server-admin", Steps: []string{"setfacl -m u:www-data:x /srv/acme/private"}, Risk: "www-data may then enter this directory, and nothing else changes"},
			Hops:         []pinpoint.Hop{{Kind: "client", Says: "you"}, {Kind: "cdn", Product: "cloudflare", Says: "CF-Ray"}, {Kind: "web-server", Product: "nginx", Refused: true}, {Kind: "application"}},
			Sent:         3, Strikes: 2, Run: "01KAM3H5",
		},
	}
}

func TestHTML(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, sample()); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"refused here", "setfacl -m u:www-data:x /srv/acme/private", "/var/log/nginx/acme-error.log:7", "the server&#39;s administrator can", "97 %", "the same refusal (403)", "&lt;script&gt;alert(1)&lt;/script&gt;"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if m := regexp.MustCompile(`(?i)<script|javascript:|\bsrc=|url\(|@import|<link|href=`).FindString(text); m != "" {
		t.Errorf("the page holds %q", m)
	}
}

func TestHTMLOfLittle(t *testing.T) {
	for _, v := range []pinpoint.Verdict{{}, {Outcome: pinpoint.Unknown, Sentence: "I do not know."}, {Outcome: pinpoint.InputIncomplete, Gaps: []pinpoint.Gap{{Kind: "sanitized", Says: "no cookies"}}}} {
		var b bytes.Buffer
		if err := HTML(&b, Page{Verdict: v}); err != nil {
			t.Error(err)
		}
		if strings.Contains(b.String(), "ZgotmplZ") {
			t.Error("the template refuses something")
		}
	}
}

// TestShare: no name of a host, a person, a file or an address is left, and the report still reads.
func TestShare(t *testing.T) {
	var b bytes.Buffer
	if err := Share(&b, sample()); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`(?i)acme|203\.0\.113|ann@|private|user=ann`).FindString(string(text)); m != "" {
			t.Errorf("%s still holds %q", f.Name, m)
		}
		for _, want := range []string{"fs-dir-no-search", "nginx", "www-data", "setfacl"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lost %q", f.Name, want)
			}
		}
		if f.Name == "verdict.json" {
			var v pinpoint.Verdict
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			if a, b := v.Evidence[0].Names["path"], strings.TrimPrefix(v.Fix.Steps[0], "setfacl -m u:www-data:x "); a != b {
				t.Errorf("the same path looks different: %q, %q", a, b)
			}
		}
	}
	if q := sample(); q.Evidence[0].Says != "/srv/acme/private is 0750 root:root; www-data is neither." {
		t.Error("the report itself was changed")
	}
}

// A host without a dot is a name, too.
func TestShareHidesBareHosts(t *testing.T) {
	p := Page{Method: "GET", URL: "http://payroll7:8080/x"}
	p.Verdict.Refuser.Host, p.Verdict.Sentence = "payroll7:8080", "The request to payroll7 was refused."
	var b bytes.Buffer
	if err := Share(&b, p); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		if bytes.Contains(text, []byte("payroll7")) {
			t.Errorf("%s names the host", f.Name)
		}
	}
}

// What two readers saw in the same words is proof once; the other one stands aside, and nothing is lost.
func TestProofTellsTheSameWordsOnce(t *testing.T) {
	v := &pinpoint.Verdict{Cause: "api-key-missing", Evidence: []pinpoint.Clue{
		{ID: "reason", Cause: "api-key-missing", Quote: "Whygate-Reason: key.missing", Says: "It says so."},
		{ID: "fingerprint", Cause: "api-key-missing", Quote: "Whygate-Reason: key.missing", Says: "It looks so."},
		{ID: "line", Quote: "deny all;", At: pinpoint.Place{File: "a.conf", Line: 3}},
		{ID: "other line", Quote: "deny all;", At: pinpoint.Place{File: "a.conf", Line: 9}},
		{ID: "doubt", Cause: "api-key-missing", Against: true, Quote: "deny all;", At: pinpoint.Place{File: "a.conf", Line: 3}},
		{ID: "no words"}, {ID: "no words either"},
		{ID: "tried", Cause: "waf-rule", Source: pinpoint.FromExperiment},
	}}
	names := func(list []pinpoint.Clue) (s []string) {
		for _, c := range list {
			s = append(s, c.ID)
		}
		return s
	}
	if got, want := names(Proof(v)), []string{"reason", "line", "other line", "doubt", "no words", "no words either"}; !slices.Equal(got, want) {
		t.Errorf("Proof is %q, want %q", got, want)
	}
	if got, want := names(Page{Verdict: *v}.Aside()), []string{"fingerprint", "tried"}; !slices.Equal(got, want) {
		t.Errorf("Aside is %q, want %q", got, want)
	}
}
