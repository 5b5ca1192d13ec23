package gateway

import (
	"bytes"
	"html/template"
	"strings"

	"github.com/whygate/whygate/reason"
)

// The pages that people in a browser see: a refusal, what a reason means, and how the gateway sees them. They are
// one file each, without scripts, fonts or pictures, so that nothing can block them.
var pages = template.Must(template.New("").Funcs(template.FuncMap{"who": whoHelps}).Parse(`
{{define "head"}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">
<style>
:root{--ink:#16191d;--soft:#566070;--line:#dde1e7;--back:#f6f7f9;--card:#fff;--mark:#b42318;--tint:#fdf1ef;--good:#17663c;--help:#eef7f1}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebee;--soft:#a2acb8;--line:#313840;--back:#111418;--card:#1a1e23;--mark:#ff9486;--tint:#34201d;--good:#7fd6a3;--help:#17271e}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;overflow-wrap:anywhere}
main{max-width:44rem;margin:0 auto;padding:clamp(1.25rem,9vh,6rem) 1rem 3rem}
article{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:clamp(1.25rem,4vw,2.25rem)}
.top{display:flex;flex-wrap:wrap;gap:.4rem .75rem;align-items:center;margin:0;color:var(--soft)}
.status{background:var(--tint);color:var(--mark);font-weight:700;padding:.05rem .6rem;border-radius:99px}
h1{font-size:clamp(1.4rem,4.5vw,1.8rem);line-height:1.25;margin:.75rem 0 .5rem}
h2{font-size:1rem;margin:0 0 .35rem}
.says{margin:0;font-size:1.06rem}.says::first-letter,li::first-letter{text-transform:uppercase}
.help{background:var(--help);border-left:4px solid var(--good);border-radius:4px;margin:1.5rem 0 0;padding:.9rem 1.1rem}
.help h2{color:var(--good)}
ul{margin:0;padding-left:1.15rem}li+li{margin-top:.35rem}
.who{color:var(--soft);white-space:nowrap}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.5rem 1.25rem;margin:1.5rem 0 0}
dt{color:var(--soft)}dd{margin:0}
table{width:100%;border-collapse:collapse;margin:1.5rem 0 0}
caption,th,td{text-align:left;vertical-align:top;padding:.5rem .75rem .5rem 0}
caption{padding-top:0}
th{color:var(--soft);font-weight:400}td,th{border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}
.chosen td{font-weight:600}td:nth-child(2){color:var(--soft);white-space:nowrap}caption{font-weight:700}
footer{margin:1.5rem 0 0;padding-top:1.1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.94rem}
footer p{margin:0 0 .35rem}footer p:last-child{margin:0}
code{font:.93em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.copy{user-select:all;-webkit-user-select:all;color:var(--ink);background:var(--back);border:1px solid var(--line);border-radius:6px;padding:.12rem .45rem;white-space:nowrap;font-size:clamp(.78rem,3.4vw,.93rem)}
a{color:inherit;text-underline-offset:.2em}
@media(max-width:30rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.7rem}dd:last-child{margin:0}
thead{position:absolute;clip-path:inset(50%)}tr,td{display:block;border:0;padding:0}tr{padding:.6rem 0;border-bottom:1px solid var(--line)}tr:last-child{border:0}td{border:0}}
</style>{{end}}

{{define "fixes"}}{{with .Fixes}}<section class="help"><h2>What helps</h2><ul>
{{range .}}<li>{{.Text}}{{with who .}} <span class="who">({{.}})</span>{{end}}</li>
{{end}}</ul></section>{{end}}{{end}}

{{define "refusal"}}{{template "head"}}
<title>{{.Status}} {{.Title}}</title></head><body><main><article>
<p class="top"><span class="status">{{.Status}}</span> <code>{{.Code}}</code></p>
<h1>{{.Title}}</h1>
{{if ne .Says .Title}}<p class="says">{{.Says}}.</p>{{end}}
{{template "fixes" .}}
{{if or .Wanted .Seen .At .Hint}}<dl>
{{with .Wanted}}<dt>Wanted</dt><dd>{{.}}</dd>{{end}}
{{with .Seen}}<dt>Seen</dt><dd>{{.}}</dd>{{end}}
{{with .At}}<dt>Written in</dt><dd><code>{{.}}</code></dd>{{end}}
{{with .Hint}}<dt>Hint</dt><dd>{{.}}</dd>{{end}}
</dl>{{end}}
<footer><p>Call <code class="copy">{{.Call}}</code></p>
<p>With this id support finds what happened. <a href="{{.Page}}">About this reason</a></p></footer>
</article></main></body></html>
{{end}}

{{define "reason"}}{{template "head"}}
<title>{{.Code}}</title></head><body><main><article>
<p class="top"><span class="status">{{.Status}}</span> <code>{{.Code}}</code></p>
<h1>{{.Title}}</h1>
<p class="says">{{.Says}}.</p>
{{template "fixes" .}}
{{with .Hint}}<dl><dt>For operators</dt><dd>{{.}}</dd></dl>{{end}}
<footer><p>Words such as &lt;limit&gt; stand for what each refusal fills in.</p>
<p>On the command line: <code class="copy">whygate reasons {{.Code}}</code></p></footer>
</article></main></body></html>
{{end}}

{{define "whoami"}}{{template "head"}}
<title>{{.Address}}</title></head><body><main><article>
<p class="top">This gateway takes you for</p>
<h1><code>{{.Address}}</code></h1>
<table><caption>How the address was found, the nearest hop first</caption>
<thead><tr><th>Address</th><th>From</th><th>Why</th></tr></thead><tbody>
{{range .Hops}}<tr{{if .Chosen}} class="chosen"{{end}}><td>{{.Address}}</td><td>{{.From}}</td><td>{{.Why}}</td></tr>
{{end}}</tbody></table>
<dl><dt>Host</dt><dd>{{.Host}}</dd><dt>Protocol</dt><dd>{{.Proto}} over {{.Scheme}}{{with .TLS}}, TLS {{.}}{{end}}</dd></dl>
<footer><p>Call <code class="copy">{{.Call}}</code></p></footer>
</article></main></body></html>
{{end}}
`))

// pagePolicy lets a page do nothing but look as it does, and be shown in no frame.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page renders one of the pages.
func page(name string, data any) []byte {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		panic("BUG: the page " + name + " cannot be written: " + err.Error())
	}
	return bytes.TrimLeft(b.Bytes(), "\n")
}

// refusalPage is a refusal for a person.
func (c *call) refusalPage(told reason.Told, status int) []byte {
	told.Status = status
	return page("refusal", struct {
		reason.Told
		Call, Page string
	}{told, c.id.String(), wellKnown + "reasons/" + told.Code})
}

// whoHelps names who can take a way out, where its text does not say whom to ask.
func whoHelps(f reason.Fix) string {
	if strings.HasPrefix(f.Text, "ask ") {
		return ""
	}
	switch f.By {
	case reason.Caller:
		return "you can"
	case reason.Application:
		return "the owner of the application can"
	case reason.Operator:
		return "the operator can"
	}
	return "the owner of the API can"
}
