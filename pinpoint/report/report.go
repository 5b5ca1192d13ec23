// Package report tells a verdict: as a page that stands by itself, and as a bundle without names
// that can be handed to others. The terminal's form is the command's.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/whygate/whygate/pinpoint"
)

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(f float64) string { return fmt.Sprintf("%.0f %%", 100*f) },
	"grade":   GradeText,
	"outcome": OutcomeText,
	"source":  sourceText,
	"shows":   ShowsText,
	"place":   Place,
	"owner":   OwnerText,
	"kind":    func(s string) string { return strings.ReplaceAll(s, "-", " ") },
}).Parse(page))

// Page is what a report is made of.
type Page struct {
	pinpoint.Verdict
	Method string
	URL    string // without secrets
	Status int
	At     time.Time
}

// Proof is the evidence for the verdict and for who refused. What experiments told is there for the cause that was
// found only: a reader sees what was tried beside it. What several readers saw in the same words is told once, by the
// first of them.
func Proof(v *pinpoint.Verdict) []pinpoint.Clue {
	proof, _ := split(v)
	return proof
}

// split parts the evidence into Proof and the rest, in its order.
func split(v *pinpoint.Verdict) (proof, aside []pinpoint.Clue) {
	type words struct {
		quote   string
		at      pinpoint.Place
		against bool
	}
	told := map[words]bool{}
	for _, c := range v.Evidence {
		w := words{c.Quote, c.At, c.Against}
		switch {
		case c.Cause != v.Cause && (c.Against || c.Source == pinpoint.FromExperiment), c.Quote != "" && told[w]:
			aside = append(aside, c)
		default:
			told[w] = true
			proof = append(proof, c)
		}
	}
	return proof, aside
}

// Proof is that of the verdict.
func (p Page) Proof() []pinpoint.Clue { return Proof(&p.Verdict) }

// Aside is the evidence that is not Proof.
func (p Page) Aside() []pinpoint.Clue {
	_, aside := split(&p.Verdict)
	return aside
}

// HTML writes a page that needs nothing else: no script, no font, no picture from elsewhere. What
// came from servers is text in it, whatever it holds.
func HTML(w io.Writer, p Page) error {
	p.Verdict.Hops = Hops(p.Verdict)
	return pageTemplate.Execute(w, p)
}

// Hops are the stations to show: those that are known, at least the client, who refused and the
// application behind.
func Hops(v pinpoint.Verdict) []pinpoint.Hop {
	if len(v.Hops) > 0 {
		return v.Hops
	}
	hops := []pinpoint.Hop{{Kind: "client", Says: "you"}}
	kind := map[string]string{"client": "client", "network": "network", "cdn": "cdn", "waf": "waf", "gateway": "gateway", "web-server": "web-server", "files": "web-server", "storage": "storage"}[v.Layer]
	if v.Refuser.Product != "" || kind != "" {
		if kind == "" || kind == "client" {
			kind = "application"
		}
		hops = append(hops, pinpoint.Hop{Kind: kind, Product: v.Refuser.Product, Refused: true})
	}
	if kind != "application" {
		hops = append(hops, pinpoint.Hop{Kind: "application"})
	}
	return hops
}

// StoppedText says why no more was sent, and when the server may be asked again; "" when the experiments came to their end.
func StoppedText(v *pinpoint.Verdict) string {
	if v.Stopped == "" || v.Resume.IsZero() {
		return v.Stopped
	}
	return v.Stopped + "; it may be asked again at " + v.Resume.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// Stop is StoppedText of the verdict.
func (p Page) Stop() string { return StoppedText(&p.Verdict) }

// Place is where something is written: "file:line".
func Place(p pinpoint.Place) string {
	if p.File == "" || p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// GradeText says what a grade of proof means.
func GradeText(grade string) string {
	switch grade {
	case "A":
		return "A, the server says so itself"
	case "B":
		return "B, an experiment or the evaluated configuration decides it"
	case "C":
		return "C, the answer or the request says so"
	case "D":
		return "D, it fits best"
	}
	return "none"
}

// OutcomeText is an outcome in a few words.
func OutcomeText(o pinpoint.Outcome) string {
	switch o {
	case pinpoint.Proved:
		return "proved"
	case pinpoint.Likely:
		return "likely"
	case pinpoint.NotReproduced:
		return "not reproduced"
	case pinpoint.InputIncomplete:
		return "input incomplete"
	case pinpoint.Unsafe:
		return "not allowed to look further"
	}
	return "not known"
}

// ShowsText says what an experiment showed.
func ShowsText(e pinpoint.Experiment) string {
	switch {
	case e.Skipped != "":
		return "not sent: " + e.Skipped
	case e.Flip:
		return fmt.Sprintf("passes (%d), and is refused again without the change", e.Status)
	case e.Shows == "passes":
		return fmt.Sprintf("passes (%d)", e.Status)
	case e.Shows == "refused": // the first one, which others are held against
		return fmt.Sprintf("refused (%d)", e.Status)
	case e.Shows == "same":
		return fmt.Sprintf("the same refusal (%d)", e.Status)
	case e.Shows == "other":
		return fmt.Sprintf("another answer (%d)", e.Status)
	case e.Shows == "unclear" && e.Status != 0:
		return fmt.Sprintf("says nothing (%d)", e.Status)
	case e.Status == 0:
		return "no answer"
	}
	return fmt.Sprint(e.Status)
}

// OwnerText is who can change something.
func OwnerText(owner string) string {
	if owner == "" {
		return ""
	}
	if owner == "caller" {
		return "you can"
	}
	return "the " + strings.NewReplacer("app-dev", "application's developers", "server-admin", "server's administrator", "cdn-admin", "owner of the CDN", "waf-admin", "owner of the WAF",
		"api-owner", "owner of the API", "identity-admin", "administrator of the identities", "storage-owner", "owner of the storage", "network-admin", "administrator of the network").Replace(owner) + " can"
}

func sourceText(s pinpoint.Source) string {
	switch s {
	case pinpoint.FromRequest:
		return "the request"
	case pinpoint.FromAnswer:
		return "the answer"
	case pinpoint.FromChain:
		return "the exchanges around it"
	case pinpoint.FromReplica:
		return "a replica run here"
	case pinpoint.FromFiles:
		return "permissions"
	case pinpoint.FromConfig:
		return "the configuration"
	case pinpoint.FromExperiment:
		return "an experiment"
	case pinpoint.FromLog:
		return "a log"
	}
	return string(s)
}
