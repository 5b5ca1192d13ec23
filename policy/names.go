package policy

import (
	"strings"

	"github.com/whygate/whygate/wire"
)

// headerName reports a field of the configuration that has to name a header and does not (RFC 9110 §5.1).
func (e *Env) headerName(field, name string) bool {
	if !wire.IsToken(name) {
		e.Problem(field, "letters, digits and -, such as X-Request-Id", "%q is no header name", name)
		return false
	}
	return true
}

// cookieName reports a field that has to name a cookie and does not (RFC 6265 §4.1.1).
func (e *Env) cookieName(field, name string) bool {
	if !wire.IsToken(name) {
		e.Problem(field, "letters, digits, - and _, such as session_id", "%q is no name of a cookie", name)
		return false
	}
	return true
}

// methodName reports a field that has to name a method and does not (RFC 9110 §9.1).
func (e *Env) methodName(field, name string) bool {
	if !wire.IsToken(name) {
		e.Problem(field, "such as GET, POST or DELETE", "%q is no method", name)
		return false
	}
	return true
}

// scopeNames reports texts of a list that are no scopes (RFC 6749 §3.3).
func (e *Env) scopeNames(field string, list []string) {
	for i, n := range list {
		if n == "" || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			e.Problem(index(field, i), "list the scopes one by one", "%q is no scope: spaces, quotes and letters beyond ASCII cannot be part of one (RFC 6749 §3.3)", n)
		}
	}
}

// filled reports texts of a list that are empty, or nothing but spaces.
func (e *Env) filled(field string, list []string) {
	for i, s := range list {
		if strings.TrimSpace(s) == "" {
			e.Problem(index(field, i), "write a name, or take the entry out", "an entry is empty")
		}
	}
}
