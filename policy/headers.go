package policy

import (
	"strings"

	"github.com/whygate/whygate/wire"
)

// Headers changes header fields on their way: of the request that the upstream gets and of
// the answer that the client gets. Removing comes first, then renaming, of each field once, then setting.
//
//	policies:
//	- headers:
//	    request: {set: {X-Env: prod}, remove: [X-Debug], rename: {X-Old: X-New}}
//	    response: {remove: [Server]}
type Headers struct {
	// Request changes what the upstream gets.
	Request HeaderEdit `json:"request"`
	// Response changes what the client gets.
	Response HeaderEdit `json:"response"`
}

// HeaderEdit changes header fields.
type HeaderEdit struct {
	// Remove takes fields out.
	Remove []string `json:"remove" example:"[X-Debug]"`
	// Rename gives fields another name and keeps their values.
	Rename map[string]string `json:"rename" example:"{X-Old: X-New}"`
	// Set puts fields in, instead of any with the same name.
	Set map[string]string `json:"set" example:"{X-Env: prod}"`
}

// framed fields belong to the connection and to nobody's policy.
func framed(id wire.FieldID) bool {
	switch id {
	case wire.Host, wire.Connection, wire.ContentLength, wire.TransferEncoding, wire.Upgrade, wire.KeepAlive, wire.TE, wire.TrailerField, wire.Expect:
		return true
	}
	return false
}

// Compile checks names and values.
func (p *Headers) Compile(env *Env) any {
	return &headersEdit{p.Request.compile(env, "request"), p.Response.compile(env, "response")}
}

// headersEdit is a Headers, compiled.
type headersEdit struct{ request, response headerEdit }

// headerEdit is a HeaderEdit with its maps as lists, in the order of their names: each call is edited alike.
type headerEdit struct {
	remove []string
	rename []renamedField
	set    wire.Fields
}

type renamedField struct {
	from, to string
	id       wire.FieldID // of to
}

func (e *HeaderEdit) compile(env *Env, field string) headerEdit {
	check := func(at, name string) {
		if env.headerName(at, name) && framed(wire.FieldIDOf(name)) {
			env.Problem(at, "the gateway writes it", "%s belongs to the connection and cannot be changed", name)
		}
	}
	for i, n := range e.Remove {
		check(index(field+".remove", i), n)
	}
	made := headerEdit{remove: e.Remove}
	for _, from := range sortedNames(e.Rename) {
		to := e.Rename[from]
		check(field+".rename."+from, from)
		check(field+".rename."+from, to)
		made.rename = append(made.rename, renamedField{from, to, wire.FieldIDOf(to)})
	}
	for _, n := range sortedNames(e.Set) {
		v := e.Set[n]
		check(field+".set."+n, n)
		if strings.ContainsAny(v, "\r\n\x00") {
			env.Problem(field+".set."+n, "write it on one line", "a header value cannot hold line breaks")
		}
		made.set.Add(n, v)
	}
	return made
}

func (e *headerEdit) edit(fs *wire.Fields) {
	for _, n := range e.remove {
		fs.Remove(n)
	}
	for i := range *fs {
		f := &(*fs)[i]
		for j := range e.rename {
			if r := &e.rename[j]; wire.EqualFold(f.Name, r.from) {
				f.Name, f.ID = r.to, r.id
				break
			}
		}
	}
	for i := range e.set {
		fs.Set(e.set[i].Name, e.set[i].Value)
	}
}

// EditRequest changes what the upstream gets.
func (e *headersEdit) EditRequest(_ *Exchange, o *wire.Outgoing) { e.request.edit(&o.Fields) }

// EditResponse changes what the client gets.
func (e *headersEdit) EditResponse(_ *Exchange, h *wire.Head) { e.response.edit(&h.Fields) }
