package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"

	"github.com/whygate/whygate/consumer"
)

// This file computes what the policy hmac verifies: signature bases (RFC 9421 §2.5) and signatures (§3.3).

// derived are the components that are not header fields (RFC 9421 §2.2).
var derived = []string{"@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query"}

// maxBaseBytes bounds the signature base. Headers are bounded, and each may be covered in several forms.
const maxBaseBytes = 256 << 10

// base is the text that was signed.
func (s *signed) base(x *Exchange) ([]byte, error) { return s.write(x, false) }

// shownBase is the base for people: fields that hold secrets are left out.
func (s *signed) shownBase(x *Exchange) string {
	b, _ := s.write(x, true)
	return excerpt(string(b), maxBase)
}

func (s *signed) write(x *Exchange, hiding bool) ([]byte, error) {
	var b []byte
	for i, it := range s.components {
		value, err := component(x, it)
		if err != nil {
			return nil, err
		}
		if name := it.Value.(string); hiding {
			value = shown(name, value)
		}
		b = append(append(append(append(b, s.ids[i]...), ": "...), value...), '\n')
		if len(b) > maxBaseBytes {
			return nil, errors.New("what is signed has more than " + plural(maxBaseBytes, "byte"))
		}
	}
	return append(append(b, `"@signature-params": `...), s.params...), nil
}

// shown is the value of a component without what is not for other eyes: fields with credentials, and the
// values in queries.
func shown(name, value string) string {
	if holdsSecret(name) || name == "@query-param" {
		return "(" + plural(len(value), "byte") + " that are not shown)"
	}
	path, query, has := strings.Cut(value, "?")
	if name[0] != '@' || !has {
		return value
	}
	var b strings.Builder
	b.WriteString(path + "?")
	for i, pair := range strings.Split(query, "&") {
		if i > 0 {
			b.WriteByte('&')
		}
		k, v, has := strings.Cut(pair, "=")
		if b.WriteString(k); has {
			b.WriteString("=(" + plural(len(v), "byte") + ")")
		}
	}
	return b.String()
}

// holdsSecret says that a header field is not for other eyes.
func holdsSecret(name string) bool {
	for _, part := range []string{"authorization", "cookie", "token", "secret", "password", "api-key", "apikey"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// component is the value of a component (RFC 9421 §2.1 and §2.2).
func component(x *Exchange, it httpsfv.Item) (string, error) {
	name := it.Value.(string)
	shown := excerpt(name, 64)
	params := it.Params.Names()
	if strings.HasPrefix(name, "@") {
		if name == "@query-param" {
			return queryParam(x, it)
		}
		if len(params) > 0 {
			return "", errors.New(shown + " has a parameter, " + excerpt(params[0], 32) + ", which it cannot have here")
		}
		path, query := splitTarget(x)
		switch name {
		case "@method":
			return x.Method, nil
		case "@target-uri":
			return x.Scheme + "://" + authority(x) + path + query, nil
		case "@authority":
			return authority(x), nil
		case "@scheme":
			return x.Scheme, nil
		case "@request-target":
			return x.Target, nil
		case "@path":
			return path, nil
		case "@query":
			if query == "" {
				return "?", nil
			}
			return query, nil
		}
		return "", errors.New("there is no component " + shown + " of a request")
	}
	values := fieldValues(x, name)
	switch {
	case len(values) > 0:
	case name == "host": // of HTTP/2
		values = []string{x.Authority}
	case name == "content-length" && x.Length >= 0:
		values = []string{strconv.FormatInt(x.Length, 10)}
	}
	if len(values) == 0 {
		return "", errors.New("the header " + shown + " is signed and not there")
	}
	for i, v := range values {
		values[i] = strings.Trim(v, " \t")
	}
	switch {
	case len(params) == 0:
		return strings.Join(values, ", "), nil
	case len(params) > 1:
		return "", errors.New("the component " + shown + " has several parameters, which is not supported")
	case params[0] == "bs":
		for i, v := range values {
			values[i] = ":" + base64.StdEncoding.EncodeToString([]byte(v)) + ":"
		}
		return strings.Join(values, ", "), nil
	case params[0] == "key":
		key, _ := it.Params.Get("key")
		k, _ := key.(string)
		d, err := httpsfv.UnmarshalDictionary(values)
		if err != nil {
			return "", errors.New("the header " + shown + " is no dictionary of structured fields")
		}
		member, ok := d.Get(k)
		if !ok {
			return "", errors.New("the header " + shown + " has no member " + excerpt(k, 32))
		}
		return httpsfv.Marshal(member)
	}
	return "", errors.New("the component " + shown + " has the parameter " + excerpt(params[0], 32) + ", which is not supported")
}

// queryParam is one parameter of the query, as §2.2.8 encodes it.
func queryParam(x *Exchange, it httpsfv.Item) (string, error) {
	v, _ := it.Params.Get("name")
	name, ok := v.(string)
	if !ok || len(it.Params.Names()) != 1 {
		return "", errors.New("@query-param has the one parameter name")
	}
	found, value := 0, ""
	for pair := range strings.SplitSeq(x.Query, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if formEscape(formUnescape(k)) == name {
			found++
			value = formEscape(formUnescape(v))
		}
	}
	if found != 1 {
		return "", errors.New("the query parameter " + excerpt(name, 64) + " is signed and is there " + plural(found, "time"))
	}
	return value, nil
}

// formUnescape reads application/x-www-form-urlencoded as URLs of the web do: broken escapes stay.
func formUnescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil && s[i+1] != '+' && s[i+1] != '_' {
				b = append(b, byte(c))
				i += 2
				continue
			}
		}
		if s[i] == '+' {
			b = append(b, ' ')
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// formEscape writes what the form encoding set escapes, with spaces as %20.
func formEscape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '*', c == '-', c == '.', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// splitTarget is the path of the target and its query with "?", both as the client sent them: what the
// gateway makes of them afterwards is not what was signed.
func splitTarget(x *Exchange) (path, query string) {
	t := x.Target
	if i := strings.Index(t, "://"); i > 0 && t[0] != '/' { // absolute form
		t = t[i+3:]
		if i = strings.IndexAny(t, "/?"); i < 0 {
			i = len(t)
		}
		t = t[i:]
	}
	if i := strings.IndexByte(t, '?'); i >= 0 {
		t, query = t[:i], t[i:]
	}
	if t == "" {
		t = "/"
	}
	return t, query
}

// authority is host and port in small letters, without the port that the scheme has anyway.
func authority(x *Exchange) string {
	if p := x.Port; p != "" && !(p == "443" && x.Scheme == "https" || p == "80" && x.Scheme == "http") {
		return x.Host + ":" + p
	}
	return x.Host
}

// ParsePublicKey reads a PEM PUBLIC KEY that signatures can be verified with. It returns nil where the text is
// no PEM, and so a secret.
func ParsePublicKey(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil
	}
	if block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("the file holds a %s, not a PUBLIC KEY", block.Type)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the PUBLIC KEY cannot be read")
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 8192 {
			return nil, fmt.Errorf("an RSA key of %d bits", k.N.BitLen())
		}
		return k, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return k, nil
		}
	}
	return nil, errors.New("the PUBLIC KEY is of a kind that signatures are not verified with")
}

// algorithmOf is what the key of a credential is for. Only RSA keys leave a choice to the caller.
func algorithmOf(cred *consumer.Credential, named string) string {
	switch k := cred.Public.(type) {
	case ed25519.PublicKey:
		return "ed25519"
	case *rsa.PublicKey:
		if named == "rsa-v1_5-sha256" {
			return named
		}
		return "rsa-pss-sha512"
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			return "ecdsa-p384-sha384"
		}
		return "ecdsa-p256-sha256"
	}
	return "hmac-sha256"
}

// verifies says that value is the signature of base.
func verifies(cred *consumer.Credential, algorithm string, base, value []byte) bool {
	switch k := cred.Public.(type) {
	case nil:
		return len(cred.Secret) > 0 && hmac.Equal(macOf(cred.Secret, base), value)
	case ed25519.PublicKey:
		return ed25519.Verify(k, base, value)
	case *rsa.PublicKey:
		if algorithm == "rsa-v1_5-sha256" {
			sum := sha256.Sum256(base)
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], value) == nil
		}
		sum := sha512.Sum512(base)
		return rsa.VerifyPSS(k, crypto.SHA512, sum[:], value, &rsa.PSSOptions{SaltLength: 64}) == nil
	case *ecdsa.PublicKey:
		size := (k.Curve.Params().BitSize + 7) / 8
		if len(value) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(value[:size]), new(big.Int).SetBytes(value[size:])
		if algorithm == "ecdsa-p384-sha384" {
			sum := sha512.Sum384(base)
			return ecdsa.Verify(k, sum[:], r, s)
		}
		sum := sha256.Sum256(base)
		return ecdsa.Verify(k, sum[:], r, s)
	}
	return false
}
