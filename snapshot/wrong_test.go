package snapshot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/whygate/whygate/counter"
	"github.com/whygate/whygate/policy"
	"github.com/whygate/whygate/resource"
)

// wrongKind is what can be wrong with the configuration of a policy.
type wrongKind struct {
	base string // a configuration that compiles, as JSON
	// wrong has values for the fields that the rules of their type do not bound: by the path of the field, several
	// values in JSON that have to be refused. What is right in any form says so with "any".
	wrong map[string][]string
}

// anyText marks fields where every text has a meaning.
var anyText = []string{"any"}

var wrongHeader = []string{`"X Key"`, `"X-Käse"`, `"X:Y"`}

var wrongClaims = map[string][]string{
	"header": wrongHeader, "cookie": {`"a b"`, `"a;b"`}, "query": anyText,
	"audience[0]": {`""`}, "claims[0].name": {`""`}, "claims[0].values[0]": anyText, "subjectClaim": anyText, "scopeClaim": anyText, "rolesClaim": anyText,
	"groupsClaim": anyText, "clientClaim": anyText, "challengeScopes[0]": {`"a b"`, `"a\"b"`}, "resourceMetadata": {`"metadata"`, `"ftp://a/"`, `"https://"`, `"https://a/#b"`},
}

func withClaims(own map[string][]string) map[string][]string {
	all := maps.Clone(wrongClaims)
	maps.Copy(all, own)
	return all
}

var wrongKinds = map[string]wrongKind{
	"maintenance":  {`{}`, map[string][]string{"until": {`"tomorrow"`, `"2026-13-01T00:00:00Z"`}, "from": {`"now"`}, "message": anyText, "allow[0]": {`"10.0.0.0/33"`, `"localhost"`, `""`}}},
	"ip-access":    {`{"deny": ["10.0.0.1"]}`, map[string][]string{"allow[0]": {`"10.0.0.0/33"`, `"10.0.0"`, `"*"`}, "deny[0]": {`"::1/129"`, `"here"`, `""`}, "allowFiles[0]": {`"nonesuch.txt"`, `""`, `"bad.txt"`}, "denyFiles[0]": {`"nonesuch.txt"`, `""`, `"."`}}},
	"geo":          {`{"database": ["places.mmdb"], "deny": ["XK"]}`, map[string][]string{"database[0]": {`"nonesuch.mmdb"`, `""`, `"bad.txt"`, `"."`}, "allow[0]": {`"Germany"`, `"D"`, `""`}, "deny[0]": {`"germany"`, `"1"`}}},
	"bot":          {`{"deny": ["BadBot"]}`, map[string][]string{"deny[0]": {`""`}, "allow[0]": {`""`}, "denyRegexps[0]": {`"("`, `"(?<=a)b"`, `""`}, "allowRegexps[0]": {`"["`, `"a**"`}}},
	"cors":         {`{"origins": ["https://shop.test"]}`, map[string][]string{"origins[0]": {`""`, `"shop.test"`, `"https://shop.test/"`, `"https://shop.test/a"`, `"https://*"`}, "originRegexps[0]": {`"("`, `""`}, "methods[0]": {`"GE T"`, `""`}, "headers[0]": {`"X Y"`, `""`}, "expose[0]": {`"X Y"`, `""`}}},
	"method":       {`{"allow": ["GET"]}`, map[string][]string{"allow[0]": {`"GE T"`, `""`}, "deny[0]": {`"GE T"`, `""`}}},
	"size":         {`{"body": "1KiB"}`, map[string][]string{}},
	"key-auth":     {`{}`, map[string][]string{"header": wrongHeader, "query": anyText, "cookie": {`"a b"`, `"a=b"`}}},
	"basic":        {`{}`, map[string][]string{"realm": {`"käse"`, `"a\nb"`}}},
	"hmac":         {`{}`, map[string][]string{"components[0]": {`"@metod"`, `"@status"`, `"@query-param"`, `"a b"`, `""`}, "label": {`"Sig1"`, `"1"`}}},
	"mtls":         {`{"ca": "ca.pem"}`, map[string][]string{"ca": {`"nonesuch.pem"`, `"bad.txt"`, `"."`}, "allow[0].fingerprint": {`"ab"`, `"AB:CD"`}, "allow[0].subject": anyText, "allow[0].issuer": anyText, "allow[0].san": anyText, "allow[0]": {`{}`}, "header": wrongHeader, "crl": {`"nonesuch.crl"`, `"bad.txt"`, `"ca.pem"`, `"."`}, "crlFailOpen": {`true`}}},
	"forward-auth": {`{"url": "http://127.0.0.1:1/", "subject": "X-User"}`, map[string][]string{"url": {`""`, `"auth"`, `"ftp://a/"`, `"http://a b/"`, `"http://u:p@a/"`, `"http://"`}, "headers[0]": {`"X Y"`, `"Connection"`, `""`}, "copy[0]": {`"X Y"`, `"Connection"`, `""`}, "copyBack[0]": {`"X Y"`, `"Connection"`, `""`}, "subject": wrongHeader, "scopes": wrongHeader, "roles": wrongHeader, "groups": wrongHeader, "ca": {`"nonesuch.pem"`, `"bad.txt"`}}},
	"jwt": {`{}`, withClaims(map[string][]string{"issuer": anyText, "jwks": {`"keys"`, `"ftp://a/"`, `"http://"`, `"http://a b/"`}, "keyFile": {`"nonesuch.pem"`, `"bad.txt"`, `"."`},
		"secret": {`{}`, `{"file": "a", "env": "B"}`, `"x"`}, "secret.file": {`"nonesuch"`, `"."`}, "secret.env": {`"WHYGATE_NO_SUCH_VARIABLE"`}})},
	"introspection": {`{"endpoint": "http://127.0.0.1:1/", "clientId": "gateway", "clientSecret": {"file": "SECRET"}}`, withClaims(map[string][]string{"endpoint": {`""`, `"login"`, `"ftp://a/"`, `"http://"`, `"http://u:p@a/"`, `"http://a/#b"`}, "clientId": {`""`}, "issuer": anyText,
		"clientSecret": {`{}`, `{"file": "a", "env": "B"}`, `"x"`}, "clientSecret.file": {`"nonesuch"`, `"."`}, "clientSecret.env": {`"WHYGATE_NO_SUCH_VARIABLE"`}})},
	"anonymous":    {`{}`, map[string][]string{"subject": {`""`}, "scopes[0]": {`""`, `"a b"`}, "roles[0]": {`""`}, "groups[0]": {`""`}}},
	"subscription": {`{}`, nil},
	"access":       {`{"allow": {"subjects": ["alice"]}}`, map[string][]string{"allow.applications[0]": {`""`}, "allow.teams[0]": {`""`}, "allow.tenants[0]": {`""`}, "allow.subjects[0]": {`""`}, "deny.applications[0]": {`""`}, "deny.teams[0]": {`""`}, "deny.tenants[0]": {`""`}, "deny.subjects[0]": {`""`}}},
	"scopes":       {`{"all": ["read"]}`, map[string][]string{"all[0]": {`""`, `"a b"`}, "any[0]": {`""`, `"a b"`}}},
	"roles":        {`{"all": ["read"]}`, map[string][]string{"all[0]": {`""`}, "any[0]": {`""`}}},
	"groups":       {`{"all": ["read"]}`, map[string][]string{"all[0]": {`""`}, "any[0]": {`""`}}},
	"rule": {`{"rules": [{"name": "a", "effect": "allow", "when": "true"}], "default": "deny"}`, map[string][]string{"rules": {`[]`, `[{"name": "a", "effect": "allow", "when": "true"}, {"name": "a", "effect": "deny", "when": "true"}]`}, "rules[0].name": {`""`},
		"rules[0].when": {`""`, `"request.metod == \"GET\""`, `"1 + 1"`, `"request.method =="`, `"request.method == 3"`, `"nonesuch(1)"`, `"((((("`}, "rules[0].message": anyText}},
	"csrf": {`{}`, map[string][]string{"cookie": {`""`, `"a b"`, `"a=b"`}, "header": {`""`, `"X Y"`, `"Cookie"`, `"Host"`}, "field": anyText, "secret": {`{}`, `{"file": "a", "env": "B"}`}, "secret.file": {`"nonesuch"`, `"short.txt"`}, "secret.env": {`"WHYGATE_NO_SUCH_VARIABLE"`},
		"session": {`"a b"`, `"csrf_token"`}, "identity": {`true`}, "origins[0]": {`""`, `"*"`, `"null"`, `"shop.test"`}, "path": {`"a"`, `"/a;b"`, `""`}, "domain": {`"a b"`, `"https://shop.test"`}}},
	"hotlink":      {`{}`, map[string][]string{"hosts[0]": {`""`, `"https://shop.test"`, `"a b"`, `"shop.*"`}}},
	"rate-limit":   {`{"requests": 1, "per": "address"}`, map[string][]string{"cost": {`"nonesuch"`, `-1`, `1.5`, `"true"`, `[]`, `{"a": 1}`, `"1 +"`}}},
	"quota":        {`{"requests": 1, "per": "address"}`, map[string][]string{"timeZone": {`"Europe/Berlyn"`, `"CEST+2"`}}},
	"concurrency":  {`{"calls": 1, "per": "address"}`, nil},
	"content-type": {`{"allow": ["application/json"]}`, map[string][]string{"allow[0]": {`""`, `"json"`, `"a/b/c"`, `"application/"`}, "charsets[0]": {`""`, `"utf 8"`}}},
	"json-limits":  {`{}`, nil},
	"schema":       {`{}`, map[string][]string{"openapi": {`"nonesuch.yaml"`, `"bad.txt"`}, "body": {`"nonesuch.json"`, `"bad.txt"`, `{"type": "strin"}`, `3`, `{"$ref": "#/nowhere"}`, `{"pattern": "("}`}, "references": anyText}}, // TestSchemaReferences has wrong ones: they need a schema beside them
	"waf": {`{}`, map[string][]string{"methods[0]": {`"GE T"`, `""`}, "contentTypes[0]": {`""`, `"json"`}, "exclusions[0]": {`{}`}, "exclusions[0].rules[0]": {`0`, `-1`, `999999999`}, "exclusions[0].tags[0]": {`""`, `"nonesuch"`},
		"exclusions[0].route": {`"nonesuch"`}, "exclusions[0].path": {`"articles"`}, "exclusions[0].parameter": anyText, "exclusions[0].variable": {`"NONESUCH"`, `"ARGS:"`}, "directives": {`"nonesuch.conf"`, `"bad.txt"`, `"."`}}},
	"mock":    {`{"answers": [{}]}`, map[string][]string{"answers": {`[]`}, "openapi": {`"nonesuch.yaml"`, `"bad.txt"`}, "answers[0].name": {`"a b"`}, "answers[0].headers": {`{"X Y": "a"}`, `{"X-A": "a\nb"}`, `{"Content-Length": "3"}`, `{"Connection": "close"}`}, "answers[0].body": anyText, "answers[0].file": {`"nonesuch"`, `"."`}}},
	"cache":   {`{}`, map[string][]string{"ignore[0]": {`""`}}},
	"headers": {`{"request": {"remove": ["X-A"]}}`, map[string][]string{"request.remove[0]": {`""`, `"X Y"`, `"Host"`}, "request.rename": {`{"X Y": "Z"}`, `{"X-A": "Y Z"}`, `{"X-A": ""}`}, "request.set": {`{"X Y": "a"}`, `{"X-A": "a\nb"}`, `{"Content-Length": "3"}`}, "response.remove[0]": {`""`, `"X Y"`}, "response.rename": {`{"X Y": "Z"}`, `{"X-A": "Y Z"}`}, "response.set": {`{"X Y": "a"}`, `{"X-A": "a\nb"}`}}},
	"path":    {`{"strip": "/a"}`, map[string][]string{"strip": {`"a"`}, "add": {`"a"`}, "match": {`"("`, `"a**"`}, "replace": {`"a"`}}},
	"transform": {`{"request": {"headers": {"set": {"X-A": "a"}}}}`, map[string][]string{"request.headers.set": {`{"X Y": "a"}`, `{"X-A": "{nonesuch}"}`, `{"X-A": "{"}`, `{"X-A": "a\nb"}`}, "request.headers.add": {`{"X Y": "a"}`, `{"X-A": "{nonesuch}"}`},
		"request.query.set": {`{"a": "{nonesuch}"}`}, "request.query.remove[0]": {`""`}, "request.query.rename": {`{"a": ""}`}, "request.path": {`"v2"`, `"/{nonesuch}"`, `"/{"`},
		"request.body.set": {`{"a[": 1}`, `{"a": "{nonesuch}"}`, `{"": 1}`}, "request.body.remove[0]": {`""`, `"a["`, `"a[x]"`}, "request.body.rename": {`{"a[": "b"}`, `{"a": ""}`}, "request.body.template": {`{"a": "{nonesuch}"}`, `"{body["`},
		"response.headers.set": {`{"X Y": "a"}`, `{"X-A": "{nonesuch}"}`}, "response.headers.add": {`{"X Y": "a"}`, `{"X-A": "{nonesuch}"}`}, "response.status": {`{"abc": 200}`, `{"404": 99}`, `{"404": 1000}`, `{"99": 200}`},
		"response.body.set": {`{"a[": 1}`, `{"a": "{nonesuch}"}`}, "response.body.remove[0]": {`""`, `"a["`}, "response.body.rename": {`{"a[": "b"}`, `{"a": ""}`}, "response.body.template": {`{"a": "{nonesuch}"}`}}},
	"mask":     {`{"fields": ["password"]}`, map[string][]string{"fields[0]": {`""`}, "paths[0]": {`""`, `"a["`, `"[x"`}, "match[0]": {`"("`, `""`, `"a*"`}, "replacement": anyText, "salt": anyText}},
	"compress": {`{}`, map[string][]string{"types[0]": {`""`, `"json"`}}},
}

// Whatever is wrong with a policy, in whichever field, is told before the first call: with the line of the field, a
// mark under it and what to write instead. Fields that are added have to be added here too.
func TestEveryWrongFieldIsShown(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"bad.txt": "what is this?\n\x00{", "short.txt": "short", "SECRET": "0123456789abcdef0123456789abcdef", "schema.json": `{"type": "object"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeDatabase(t, filepath.Join(dir, "places.mmdb"))
	writeAuthority(t, filepath.Join(dir, "ca.pem"))
	asked := 0
	for _, kind := range policy.All {
		t.Run(kind.Name, func(t *testing.T) {
			w, ok := wrongKinds[kind.Name]
			if !ok {
				t.Fatal("nothing wrong is tried with this policy")
			}
			used := map[string]bool{}
			base := map[string]any{}
			if err := json.Unmarshal([]byte(w.base), &base); err != nil {
				t.Fatal(err)
			}
			wrong := func(config map[string]any, path, value string) map[string]any {
				var v any
				if err := json.Unmarshal([]byte(value), &v); err != nil {
					t.Fatalf("%s: %s: %v", path, value, err)
				}
				return placed(config, path, v).(map[string]any)
			}
			problemsOf := func(config map[string]any, path string) (resource.Problems, int) {
				asked++
				top, _, _ := strings.Cut(strings.ReplaceAll(path, "[", "."), ".")
				doc, line := wrongDocument(kind.Name, config, top)
				set, problems := resource.Parse(resource.File{Name: filepath.Join(dir, "test.yaml"), Data: []byte(doc)})
				_, more := Compile(set, env(t))
				return append(problems, more...), line
			}
			// What cannot be decoded, for each field.
			type fault struct{ path, value string }
			faults := []fault{{"nonesuch", "1"}}
			for _, f := range resource.Describe(reflect.TypeOf(kind.New()).Elem()) {
				if values := wrongOf(f); len(values) > 0 {
					path := f.Name
					if strings.HasPrefix(f.Type, "list of ") {
						path += "[0]"
					}
					faults = append(faults, fault{path, values[0]})
				}
			}
			// A second mistake hides no part of the first, and what is said of both is true of each.
			beside := func(config map[string]any, path, value string, problems resource.Problems, second fault) {
				if strings.HasPrefix(path, strings.TrimSuffix(second.path, "[0]")) || instead(kind.Name, path, second.path) {
					second = faults[0]
				}
				alone, _ := problemsOf(wrong(base, second.path, second.value), second.path)
				both, line := problemsOf(wrong(config, second.path, second.value), path)
				if !slices.ContainsFunc(both, func(p resource.Problem) bool { return p.Severity == resource.Error && p.Line == line }) {
					t.Errorf("%s: %s beside %s: %s is not told: %v", path, value, second.path, second.value, both)
				}
				for _, p := range both {
					known := func(q resource.Problem) bool { return q.Message == p.Message && q.Hint == p.Hint }
					if !slices.ContainsFunc(problems, known) && !slices.ContainsFunc(alone, known) {
						t.Errorf("%s: %s beside %s: %s says what neither does alone: %v", path, value, second.path, second.value, p)
					}
				}
			}
			next := 0
			try := func(path, value string) {
				config := wrong(base, path, value)
				problems, line := problemsOf(config, path)
				if next++; kind.Name != "waf" || next <= len(faults) { // compiling that one takes long
					beside(config, path, value, problems, faults[next%len(faults)])
				}
				i := slices.IndexFunc(problems, func(p resource.Problem) bool { return p.Severity == resource.Error && p.Line == line && p.Col > 0 })
				switch {
				case !problems.HasErrors():
					t.Errorf("%s: %s is taken", path, value)
				case i < 0:
					t.Errorf("%s: %s is a problem elsewhere: %v", path, value, problems)
				case problems[i].Hint == "" && !strings.Contains(problems[i].Message, ": wanted "):
					t.Errorf("%s: %s has no hint: %s", path, value, problems[i])
				}
			}
			var walk func(prefix string, fields []resource.FieldInfo)
			walk = func(prefix string, fields []resource.FieldInfo) {
				for _, f := range fields {
					path := prefix + f.Name
					list := strings.HasPrefix(f.Type, "list of ")
					if list {
						path += "[0]"
					}
					values := w.wrong[path]
					used[path] = true
					if list {
						try(prefix+f.Name, `{"a": 1}`)
						values = append(slices.Clip(values), w.wrong[prefix+f.Name]...)
						used[prefix+f.Name] = true
					}
					for _, v := range values {
						if v == "any" {
							continue
						}
						if at := path; list && (strings.HasPrefix(v, "[") || len(w.wrong[path]) == 0) {
							try(prefix+f.Name, v)
						} else {
							try(at, v)
						}
					}
					wrong := wrongOf(f)
					for _, v := range wrong {
						try(path, v)
					}
					if len(values)+len(wrong) == 0 {
						t.Errorf("nothing wrong is tried with %s, %s", path, f.Type)
					}
					if text := strings.TrimPrefix(f.Type, "list of "); (text == "text" || strings.HasPrefix(text, "names with ") || text == "value") && !slices.ContainsFunc(f.Rules, func(r string) bool { return strings.HasPrefix(r, "one of ") }) && values == nil {
						t.Errorf("the wrong table has nothing on %s, %s", path, f.Type)
					}
					walk(path+".", f.Fields)
				}
			}
			walk("", resource.Describe(reflect.TypeOf(kind.New()).Elem()))
			try("nonesuch", `1`)
			for path := range w.wrong {
				if !used[path] {
					t.Errorf("there is no field %s", path)
				}
			}
		})
	}
	t.Logf("%d configurations", asked)
}

// instead says that only one of two fields can be written.
func instead(kind, a, b string) bool {
	sources := []string{"jwks", "keyFile", "secret"}
	isSource := func(path string) bool { return slices.Contains(sources, strings.Split(path, ".")[0]) }
	return kind == "jwt" && isSource(a) && isSource(b)
}

// wrongOf are values against the rules of a field's type.
func wrongOf(f resource.FieldInfo) (list []string) {
	kind := strings.TrimPrefix(f.Type, "list of ")
	switch {
	case kind == "fields" || strings.HasPrefix(kind, "names with "):
		return []string{`"x"`, `3`, `["x"]`}
	case kind == "value":
		return nil
	case kind == "text":
		list = []string{`{"a": 1}`, `[["x"]]`}
	case strings.Contains(kind, "number"):
		list = []string{`"many"`, `{"a": 1}`, `1.5`, `99999999999999999999999`}
	default:
		list = []string{`"?!"`, `{"a": 1}`}
	}
	for _, r := range f.Rules {
		low, high, _ := strings.Cut(r, " and at most ")
		if v, ok := strings.CutPrefix(r, "at most "); ok {
			low, high = "", v
		}
		switch {
		case strings.HasPrefix(r, "one of "):
			list = append(list, `"nonesuch"`, `""`)
		case strings.Contains(r, "at least") || strings.Contains(r, "at most"):
			if strings.Contains(low, "at least") {
				list = append(list, `-1`)
			}
			if high != "" {
				if strings.Trim(high, "0123456789") == "" {
					list = append(list, high+"0")
				} else {
					list = append(list, `"`+strings.Replace(high, high[:1], "9999"+high[:1], 1)+`"`)
				}
			}
		}
	}
	return list
}

// placed is a configuration with another value at a path.
func placed(in any, path string, v any) any {
	if path == "" {
		return v
	}
	if rest, ok := strings.CutPrefix(path, "[0]"); ok {
		var first any
		if l, ok := in.([]any); ok && len(l) > 0 {
			first = l[0]
		}
		return []any{placed(first, strings.TrimPrefix(rest, "."), v)}
	}
	end := strings.IndexAny(path, ".[")
	name, rest := path, ""
	if end >= 0 {
		name, rest = path[:end], strings.TrimPrefix(path[end:], ".")
	}
	m, ok := in.(map[string]any)
	if !ok {
		m = map[string]any{}
	}
	m = maps.Clone(m)
	m[name] = placed(m[name], rest, v)
	return m
}

// wrongDocument has each field of the policy on a line of its own.
func wrongDocument(kind string, config map[string]any, field string) (doc string, line int) {
	doc = upDoc + "apiVersion: whygate/v1\nkind: API\nmetadata: {name: a}\nspec:\n  upstream: up\n  policies:\n  - " + kind + ":\n"
	for _, name := range slices.Sorted(maps.Keys(config)) {
		text, _ := json.Marshal(config[name])
		doc += fmt.Sprintf("      %s: %s\n", name, text)
		if name == field {
			line = strings.Count(doc, "\n")
		}
	}
	return doc, line
}

// writeDatabase writes a database of one network.
func writeDatabase(t *testing.T, path string) {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Country", IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, network, _ := net.ParseCIDR("203.0.113.0/24")
	if err := tree.Insert(network, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("XK")}}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeAuthority writes the certificate of an authority.
func writeAuthority(t *testing.T, path string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Clients CA"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A pipe where a file should be is said to be none, and not waited for.
func TestPipes(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no pipes here: ", err)
	}
	const doc = "apiVersion: whygate/v1\nkind: "
	for name, text := range map[string]string{
		"certificate": doc + "Gateway\nmetadata: {name: g}\nspec: {listeners: [{address: \":8443\", tls: {certificates: [{cert: PIPE, key: PIPE}]}}]}\n",
		"authorities": doc + "Gateway\nmetadata: {name: g}\nspec: {listeners: [{address: \":8443\", tls: {clientCA: PIPE, certificates: [{cert: none.pem, key: none.pem}, {cert: PIPE, key: none.pem}]}}]}\n",
		"upstream":    doc + "Upstream\nmetadata: {name: u}\nspec: {targets: [{url: \"https://127.0.0.1:1\"}], tls: {ca: PIPE}}\n",
		"secret":      doc + "Application\nmetadata: {name: a}\nspec: {owner: {team: t}}\n---\n" + doc + "Credential\nmetadata: {name: c}\nspec: {application: a, hmac: {keyId: k, secret: {file: PIPE}}}\n",
		"token keys":  doc + "Upstream\nmetadata: {name: u}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n---\n" + doc + "API\nmetadata: {name: a}\nspec:\n  upstream: u\n  policies:\n  - jwt: {keyFile: PIPE}\n",
		"directives":  doc + "Upstream\nmetadata: {name: u}\nspec: {targets: [{url: \"http://127.0.0.1:1\"}]}\n---\n" + doc + "API\nmetadata: {name: a}\nspec:\n  upstream: u\n  policies:\n  - waf: {directives: PIPE}\n",
	} {
		t.Run(name, func(t *testing.T) {
			set, ps := resource.Parse(resource.File{Name: "a.yaml", Data: []byte(strings.ReplaceAll(text, "PIPE", pipe))})
			done := make(chan struct{})
			go func() { // who opens the pipe to write ends a wait, so that a failure is one and not a hang
				select {
				case <-done:
				case <-time.After(5 * time.Second):
					if f, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
						f.Close()
					}
				}
			}()
			quotas, _ := counter.OpenQuotas("")
			_, more := Compile(set, Env{Memory: counter.NewMemory(), Quotas: quotas, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			close(done)
			if text := fmt.Sprint(append(ps, more...)); !strings.Contains(text, "no regular file") {
				t.Errorf("said: %s", text)
			}
		})
	}
}
