package policy

import (
	"strings"

	"github.com/whygate/whygate/wire"
)

// Headers changes header fields on their way: of the request that the upstream gets and of
// the answer that the client gets. Removing comes first, then renaming, then setting.
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
	p.Request.compile(env, "request")
	p.Response.compile(env, "response")
	return p
}

func (e *HeaderEdit) compile(env *Env, field string) {
	check := func(at, name string) {
		if env.headerName(at, name) && framed(wire.FieldIDOf(name)) {
			env.Problem(at, "the gateway writes it", "%s belongs to the connection and cannot be changed", name)
		}
	}
	for i, n := range e.Remove {
		check(index(field+".remove", i), n)
	}
	for from, to := range e.Rename {
		check(field+".rename."+from, from)
		check(field+".rename."+from, to)
	}
	for n, v := range e.Set {
		check(field+".set."+n, n)
		if strings.ContainsAny(v, "\r\n\x00") {
			env.Problem(field+".set."+n, "write it on one line", "a header value cannot hold line breaks")
		}
	}
}

func (e *HeaderEdit) edit(fs *wire.Fields) {
	for _, n := range e.Remove {
		fs.Remove(n)
	}
	for from, to := range e.Rename {
		for i := range *fs {
			if f := &(*fs)[i]; wire.EqualFold(f.Name, from) {
				f.Name, f.ID = to, wire.FieldIDOf(to)
			}
		}
	}
	for n, v := range e.Set {
		fs.Set(n, v)
	}
}

// EditRequest changes what the upstream gets.
func (p *Headers) EditRequest(_ *Exchange, o *wire.Outgoing) { p.Request.edit(&o.Fields) }

// EditResponse changes what the client gets.
func (p *Headers) EditResponse(_ *Exchange, h *wire.Head) { p.Response.edit(&h.Fields) }
