package gateway

import (
	"bytes"
	"encoding/json"
	"html/template"
	"strings"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/reason"
	"github.com/whygate/whygate/wire"
)

const wellKnown = "/.well-known/whygate/"

// wellKnown answers what the gateway itself serves on every listener: who the caller is to it,
// and what its reasons mean. Nothing there depends on documents or on a key.
func (c *call) wellKnown() bool {
	p := c.x.Path
	if len(p) <= len(wellKnown) || p[:len(wellKnown)] != wellKnown || c.x.Method != "GET" && c.x.Method != "HEAD" {
		return false
	}
	rest := p[len(wellKnown):]
	var body []byte
	kind := "application/json"
	switch code, isReason := strings.CutPrefix(rest, "reasons/"); {
	case rest == "whoami":
		body = c.whoami()
	case isReason && reason.ByCode(code) != nil:
		r := reason.ByCode(code)
		if c.wantsHTML() {
			kind, body = "text/html; charset=utf-8", reasonPage(r)
		} else {
			body = indented(About(r))
		}
	default:
		return false
	}
	c.count(c.g.unknown)
	h := &c.head
	*h = wire.Head{Status: 200, Fields: h.Fields[:0], Length: int64(len(body))}
	h.Fields.Put(wire.ContentType, kind)
	h.Fields.Add("Cache-Control", "no-store")
	c.finishHead(h)
	c.rec.Status, c.rec.Outcome, c.rec.BytesOut = 200, calllog.Answered, int64(len(body))
	c.send(body)
	return true
}

// whoami shows callers how the gateway sees them: the address, and how it was found.
func (c *call) whoami() []byte {
	x := &c.x
	return indented(struct {
		Address string       `json:"address"`
		Hops    []reason.Hop `json:"hops"`
		Scheme  string       `json:"scheme"`
		Proto   string       `json:"protocol"`
		Host    string       `json:"host"`
		TLS     string       `json:"tls,omitempty"`
		Call    string       `json:"call"`
	}{x.Client.Addr.String(), x.Hops(c.snap.Trust), x.Scheme, protoName(x.Proto), x.Authority, tlsName(c.w), c.id.String()})
}

func protoName(p uint8) string {
	return map[uint8]string{10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}[p]
}

func tlsName(w *wire.Call) string {
	if w.TLS == nil {
		return ""
	}
	switch w.TLS.Version {
	case 0x0304:
		return "1.3"
	case 0x0303:
		return "1.2"
	}
	return "other"
}

func indented(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic("BUG: an answer cannot be written: " + err.Error())
	}
	return b.Bytes()
}

// Page is a reason as its page tells it, to whoever asks.
type Page struct {
	Code   string       `json:"reason"`
	Status int          `json:"status"`
	Title  string       `json:"title"`
	Says   string       `json:"says"`
	Fixes  []reason.Fix `json:"fixes"`
	Hint   string       `json:"hint"`
}

// About is the page of a reason. Facts stand in it as words in angle brackets.
func About(r *reason.Reason) Page {
	p := Page{Code: r.Code, Status: r.Status, Title: r.Title, Says: reason.Readable(r.Says), Hint: reason.Readable(r.Hint)}
	for _, f := range r.Fixes {
		p.Fixes = append(p.Fixes, reason.Fix{By: f.By, Text: reason.Readable(f.Text)})
	}
	return p
}

var reasonTemplate = template.Must(template.New("reason").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{{.Code}}</title>
<style>
:root{--ink:#1c1f24;--soft:#5b6470;--line:#e3e6ea;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa4b2;--line:#2d333b;--back:#15181c}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:42rem;margin:0 auto;padding:8vh 1.25rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:.3rem 0 1rem}
dl{display:grid;grid-template-columns:minmax(4.5rem,max-content) 1fr;gap:.5rem 1.25rem;padding-top:1rem;border-top:1px solid var(--line)}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font:.95em ui-monospace,monospace;overflow-wrap:anywhere}
</style></head><body><main>
<code>{{.Code}}</code> · {{.Status}}
<h1>{{.Title}}</h1>
<p>{{.Says}}</p>
<dl>{{range .Fixes}}<dt>{{.By}}</dt><dd>{{.Text}}</dd>{{end}}<dt>hint</dt><dd>{{.Hint}}</dd></dl>
</main></body></html>
`))

func reasonPage(r *reason.Reason) []byte {
	var b bytes.Buffer
	if err := reasonTemplate.Execute(&b, About(r)); err != nil {
		panic("BUG: the page of a reason cannot be written: " + err.Error())
	}
	return b.Bytes()
}
