package wire

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// normal brings a path to its one form, as a request with it would.
func normal(p string) (string, *Fault) {
	var arena []byte
	r := Request{Method: "GET"}
	f := r.setTarget(p, &arena)
	return r.Path, f
}

func TestPaths(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/", "/"},
		{"/a/b.c/d-e_f~g", "/a/b.c/d-e_f~g"},
		{"/!$&'()*+,;=:@", "/!$&'()*+,;=:@"},
		{"/%41%5a%61%7A%30%39%2d%2e%5f%7e", "/AZaz09-._~"},
		{"/%3a%40%21", "/%3A%40%21"}, // reserved: escaped or not are two paths
		{"/a%2fb%2Fc", "/a%2Fb%2Fc"},
		{"/a%5cb", "/a%5Cb"},
		{"/a//b", "/a//b"},
		{"//a", "//a"},
		{"/a;b=c/d;e", "/a;b=c/d;e"},
		{"/é", "/%C3%A9"},
		{"/\xff\x80", "/%FF%80"},
		{"/%c3%a9", "/%C3%A9"},
		{`/"<>[]^` + "`{|}", "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"},
		{"/%22%3c", "/%22%3C"},
		{"/%25", "/%25"},
		{"/%252e%252e/", "/%252e%252e/"}, // decoded once, and once only
		{"/.", "/"},
		{"/./", "/"},
		{"/a/.", "/a/"},
		{"/a/./b", "/a/b"},
		{"/a/..", "/"},
		{"/a/../", "/"},
		{"/a/b/..", "/a/"},
		{"/a/b/../..", "/"},
		{"/a/b/../../c", "/c"},
		{"/a//..", "/a/"},
		{"/a//../b", "/a/b"},
		{"/%2e", "/"},
		{"/a/%2e%2E/b", "/b"},
		{"/a/.%2e/b", "/b"},
		{"/a/...", "/a/..."},
		{"/a/..b/.c/d..", "/a/..b/.c/d.."},
		{"/.well-known/x", "/.well-known/x"},
		{"/a/..%2e", "/a/..."},
		{"/a%2e", "/a."},
		{"/%7Euser/./x/../y", "/~user/y"},
		{"/a:b@c", "/a:b@c"},
		{"/?x/../y", "/"},
	} {
		got, f := normal(c.in)
		if f != nil || got != c.want {
			t.Errorf("%q: %q, %v; want %q", c.in, got, f, c.want)
		}
	}
}

// anyPath draws paths that are rich in what matters.
var anyPath = rapid.Custom(func(t *rapid.T) string {
	part := rapid.SampledFrom([]string{"/", "/", "/", ".", "..", "/..", "/.", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "%3b", ";", ";x=1", "a", "b", "%41", "%7e", "é", "%c3%a9", "//",
		"%25", "%252e", "+", ":", "@", "[", "|", `"`, "%", "%00", "%0a", "~", "&", "=", ",", "%3f", "%23", `\`, "?"})
	return "/" + strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), "")
})

// unescape decodes every escape, once.
func unescape(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' {
			b.WriteByte(unhex[p[i+1]]<<4 | unhex[p[i+2]])
			i += 2
		} else {
			b.WriteByte(p[i])
		}
	}
	return b.String()
}

// resolved applies dot segments to a decoded path, as a server does that maps it to a file. It
// reports false for a path above the root.
func resolved(p string) (string, bool) {
	var out []string
	segs := strings.Split(p, "/")[1:]
	for i, s := range segs {
		last := i == len(segs)-1
		switch s {
		case "..":
			if len(out) == 0 {
				return "", false
			}
			out = out[:len(out)-1]
			if last {
				out = append(out, "")
			}
		case ".":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/"), true
}

// withoutParameters cuts ";…" off each segment.
func withoutParameters(p string) string {
	segs := strings.Split(p, "/")
	for i, s := range segs {
		segs[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segs, "/")
}

// checkNormal: what policies judge is what any server behind makes of it.
func checkNormal(t interface {
	Fatalf(string, ...any)
}, in, p string) {
	// Once is enough.
	if again, f := normal(p); f != nil || again != p {
		t.Fatalf("%q: normal form %q becomes %q, %v", in, p, again, f)
	}
	// Go reads the same segments, and writes the same path.
	u, err := url.ParseRequestURI(p)
	if err != nil {
		t.Fatalf("%q: Go refuses %q: %v", in, p, err)
	}
	if u.EscapedPath() != p || u.RawQuery != "" || u.Path != unescape(p) {
		t.Fatalf("%q: Go reads %q as %q", in, p, u.EscapedPath())
	}
	if j := u.JoinPath().EscapedPath(); j != p && !strings.Contains(p, "//") {
		t.Fatalf("%q: Go cleans %q to %q", in, p, j)
	}
	// A server that decodes first and resolves then finds nothing to resolve; nor does one that takes
	// "\" for "/", or cuts parameters off before or after.
	plain := unescape(p)
	for how, view := range map[string]string{
		"decoded":                      plain,
		"decoded, \\ for /":            strings.ReplaceAll(plain, `\`, "/"),
		"parameters cut, then decoded": unescape(withoutParameters(p)),
		"decoded, then cut":            withoutParameters(plain),
		"decoded, \\ for /, then cut":  withoutParameters(strings.ReplaceAll(plain, `\`, "/")),
	} {
		if got, ok := resolved(view); !ok || got != view {
			t.Fatalf("%q: normal form %q, %s: %q resolves to %q", in, p, how, view, got)
		}
	}
	for i := 0; i < len(p); i++ {
		if c := p[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?[\\]^`{|}", c) >= 0 {
			t.Fatalf("%q: byte 0x%02X in the normal form %q", in, c, p)
		}
	}
}

// TestPathsAreReadAlike: policies see exactly the path that the upstream gets, whatever the upstream is.
func TestPathsAreReadAlike(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		in := anyPath.Draw(t, "path")
		p, f := normal(in)
		if f != nil {
			return
		}
		accepted++
		checkNormal(t, in, p)
		// The normal form is what the path says: decoding and resolving it as it came gives the same,
		// as long as no escape hides a separator.
		in, _, _ = strings.Cut(in, "?")
		if lower := strings.ToLower(in); strings.Contains(lower, "%2f") {
			return
		}
		if want, ok := resolved(unescape(in)); !ok || want != unescape(p) {
			t.Fatalf("%q: normal form %q; decoding and resolving gives %q", in, p, want)
		}
	})
	if accepted < 10 {
		t.Errorf("only %d paths were accepted: this test says nothing", accepted)
	}
}

func TestSafePath(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/a/b", "/a/b"}, {"/a b", "/a%20b"}, {"/a\r\nX: y", "/a%0D%0AX:%20y"}, {"/a?b#c", "/a%3Fb%23c"}, {"/%41.é", "/%41.%C3%A9"}, {`/\`, "/%5C"},
	} {
		if got := SafePath(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

// TestArena: what the parser puts beside the buffer is never written over, for as long as one
// request is looked at.
func TestArena(t *testing.T) {
	var arena []byte
	var r Request
	for range 100 {
		if f := r.parse([]byte(lines("GET http://EXAMPLE.test/é/./x?é HTTP/1.1", "Host: EXAMPLE.test")), &testLimits, &arena); f != nil {
			t.Fatal(f)
		}
		if r.Path != "/%C3%A9/x" || r.Query != "%C3%A9" || r.Host != "example.test" {
			t.Fatalf("path %q, query %q, host %q", r.Path, r.Query, r.Host)
		}
	}
}
