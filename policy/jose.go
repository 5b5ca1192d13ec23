package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
)

// Bounds of what strangers send: a token, its JSON, a set of keys.
const (
	maxToken     = 32 << 10
	maxDepth     = 16
	maxValues    = 2000
	maxAudiences = 100
	maxKeySet    = 1 << 20
	maxKeys      = 100
	maxTries     = 8 // keys that one signature is tried with
	// maxRemembered is the size of tokens that are remembered: longer ones are checked on every call, so that
	// what is remembered has a bound (slotRows*4 tokens).
	maxRemembered = 8 << 10
)

// jwsToken is a token in the compact form of RFC 7515 §3.1, taken apart.
type jwsToken struct {
	alg, kid, typ string
	hasKid        bool
	input         string // what is signed
	payload       []byte
	signature     []byte
}

// strict refuses padding and bits that mean nothing: one token has one spelling (RFC 7515 §2).
var strict = base64.RawURLEncoding.Strict()

// parseSigned takes a token apart. The error says what is odd about it, as part of a sentence.
func parseSigned(token string) (*jwsToken, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are read", len(token), maxToken)
	}
	parts := strings.SplitN(token, ".", 7)
	if len(parts) != 3 {
		return nil, errors.New(countSlip(token, len(parts)))
	}
	header, err := decodePart("header", parts[0])
	if err != nil {
		return nil, err
	}
	s := &jwsToken{input: token[:len(parts[0])+1+len(parts[1])]}
	if s.payload, err = decodePart("payload", parts[1]); err != nil {
		return nil, err
	}
	if s.signature, err = decodePart("signature", parts[2]); err != nil {
		return nil, err
	}
	fields, err := parseObject(header)
	if err != nil {
		return nil, fmt.Errorf("its header %w", err)
	}
	text := func(name string) (string, bool, error) {
		v, ok := fields[name]
		if !ok {
			return "", false, nil
		}
		t, ok := v.(string)
		if !ok {
			return "", false, fmt.Errorf("%s in its header is no text", name)
		}
		return t, true, nil
	}
	if _, ok := fields["crit"]; ok { // RFC 7515 §4.1.11: we know no extensions
		return nil, errors.New("its header demands extensions (crit) that are not known here")
	}
	if _, ok := fields["enc"]; ok {
		return nil, errors.New("it says that it is encrypted (JWE), and signed tokens are read here")
	}
	has := false
	if s.alg, has, err = text("alg"); err == nil && !has {
		err = errors.New("its header names no algorithm (alg)")
	}
	if err == nil {
		s.kid, s.hasKid, err = text("kid")
	}
	if err == nil {
		s.typ, _, err = text("typ")
	}
	return s, err
}

func countSlip(token string, n int) string {
	switch {
	case strings.HasPrefix(token, "{"):
		return "it is JSON, and the compact form is read here"
	case n == 5:
		return "it is encrypted (JWE, five parts), and signed tokens are read here"
	case n == 1:
		return "it has no dots, as opaque tokens have none; the policy introspection asks the issuer about those"
	case n > 6:
		return "it has more than 6 parts, a JWT has three with dots between them"
	}
	return fmt.Sprintf("it has %d parts, a JWT has three with dots between them; was it cut?", n)
}

func decodePart(name, part string) ([]byte, error) {
	b, err := strict.DecodeString(part)
	if err == nil && !strings.ContainsAny(part, "\r\n") { // which Go's decoder passes over
		return b, nil
	}
	switch {
	case strings.Contains(part, "="):
		return nil, fmt.Errorf("its %s is padded with =, which base64url in tokens is not", name)
	case strings.ContainsAny(part, "+/"):
		return nil, fmt.Errorf("its %s is written in the base64 of + and /, not in base64url", name)
	case len(part)%4 == 1:
		return nil, fmt.Errorf("its %s is cut: %d characters are no whole base64url", name, len(part))
	}
	return nil, fmt.Errorf("its %s is no base64url", name)
}

// parseObject reads a JSON object and is stricter than encoding/json: no name twice (RFC 7519 §4), no invalid
// UTF-8, not deeper than maxDepth, not more than maxValues values. Whole numbers are int64, others float64. The
// error goes on a sentence that began with what was read.
func parseObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("is no valid UTF-8")
	}
	if !json.Valid(b) {
		return nil, errNoJSON
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	o := objectReader{d: d}
	v, err := o.value(0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("is no JSON object")
	}
	return m, nil
}

type objectReader struct {
	d      *json.Decoder
	values int
}

var errNoJSON = errors.New("is no JSON")

func (o *objectReader) value(depth int) (any, error) {
	if o.values++; o.values > maxValues {
		return nil, fmt.Errorf("holds more than %d values", maxValues)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("is nested deeper than %d levels", maxDepth)
	}
	t, err := o.d.Token()
	if err != nil {
		return nil, errNoJSON
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		f, err := t.Float64()
		if err != nil {
			return nil, errors.New("holds a number that is too large")
		}
		return f, nil
	case json.Delim:
		if t == '[' {
			list := []any{}
			for o.d.More() {
				v, err := o.value(depth + 1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			return list, o.end()
		}
		m := map[string]any{}
		for o.d.More() {
			name, err := o.d.Token()
			if err != nil {
				return nil, errNoJSON
			}
			n := name.(string)
			if _, twice := m[n]; twice {
				return nil, fmt.Errorf("names %q twice", clipped(n, 40))
			}
			if m[n], err = o.value(depth + 1); err != nil {
				return nil, err
			}
		}
		return m, o.end()
	}
	return t, nil // text, bool or nil
}

func (o *objectReader) end() error {
	if _, err := o.d.Token(); err != nil {
		return errNoJSON
	}
	return nil
}

// clipped shortens what a stranger wrote, for sentences.
func clipped(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-4):]) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// asymmetric are the algorithms that are accepted unless others are set.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}

// fits says why a key cannot have made a signature of that algorithm, or "" (RFC 7518 §3.1, RFC 8037).
func fits(alg string, key any) string {
	var wants string
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		if _, ok := key.(*rsa.PublicKey); ok {
			return ""
		}
		wants = "an RSA key"
	case "ES256", "ES384", "ES512":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		if k, ok := key.(*ecdsa.PublicKey); ok && k.Curve == curve {
			return ""
		}
		wants = "a key of the curve " + curve.Params().Name
	case "EdDSA", "Ed25519":
		if _, ok := key.(ed25519.PublicKey); ok {
			return ""
		}
		wants = "an Ed25519 key"
	case "HS256", "HS384", "HS512":
		size, _ := strconv.Atoi(alg[2:])
		k, ok := key.([]byte)
		if ok && len(k)*8 >= size { // RFC 7518 §3.2
			return ""
		}
		if ok {
			return fmt.Sprintf("%s wants a secret of at least %d bytes, and this one has %d", alg, size/8, len(k))
		}
		wants = "a shared secret"
	}
	return alg + " wants " + wants + ", and this is " + describeKey(key)
}

func describeKey(key any) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "a key of the curve " + k.Params().Name
	case ed25519.PublicKey:
		return "an Ed25519 key"
	case []byte:
		return "a shared secret"
	}
	return "a key of another kind"
}

// key is one key that signatures are checked with.
type key struct {
	kid string // "" for none
	alg string // that it is for; "" for any that fits
	key any    // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte
}

// verify checks a signature. The library is told key and algorithm; it is never left to choose.
func (k *key) verify(s *jwsToken) bool {
	return jwsbb.Verify(k.key, s.alg, []byte(s.input), s.signature) == nil
}

// keySet is the keys of an issuer. It does not change.
type keySet struct {
	keys []key
	// refused says which keys of the document cannot be used, and why.
	refused []string
	sum     [sha256.Size]byte // of the document
}

// candidates are the keys that a token may have been signed with, at most maxTries of those that fit, or why
// there are none: known says that its kid is there.
func (s *keySet) candidates(t *jwsToken) (found []*key, fit int, known bool, why string) {
	for i := range s.keys {
		k := &s.keys[i]
		if t.hasKid && k.kid != "" && k.kid != t.kid {
			continue
		}
		known = known || t.hasKid && k.kid == t.kid
		switch w := fits(t.alg, k.key); {
		case k.alg != "" && k.alg != t.alg && !(k.alg == "EdDSA" && t.alg == "Ed25519" || k.alg == "Ed25519" && t.alg == "EdDSA"):
			why = "its key is for " + k.alg + " alone"
		case w != "":
			why = w
		default:
			if fit++; fit <= maxTries {
				found = append(found, k)
			}
		}
	}
	return found, fit, known, why
}

// kids lists the ids of the keys, at most ten.
func (s *keySet) kids() []string {
	var list []string
	for _, k := range s.keys {
		if k.kid != "" {
			list = append(list, clipped(k.kid, 64))
		}
	}
	if len(list) > 10 {
		list = append(list[:10:10], fmt.Sprintf("%d more", len(list)-10))
	}
	return list
}

// parseKeySet reads a JWK set (RFC 7517 §5) or a single JWK. Keys that cannot be used are left out and
// noted, as an issuer may publish keys of a kind that is not known yet. secrets lets in shared secrets.
func parseKeySet(doc []byte, secrets bool) (*keySet, error) {
	if len(doc) > maxKeySet {
		return nil, fmt.Errorf("the key set has more than %d bytes", maxKeySet)
	}
	var outer struct {
		Keys []json.RawMessage `json:"keys"`
		Kty  string            `json:"kty"`
	}
	if err := json.Unmarshal(doc, &outer); err != nil {
		return nil, errors.New("the key set is no JSON of the form {\"keys\": [...]}")
	}
	if outer.Kty != "" {
		outer.Keys = []json.RawMessage{doc}
	}
	if len(outer.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, and at most %d are read", len(outer.Keys), maxKeys)
	}
	s := &keySet{sum: sha256.Sum256(doc)}
	for i, raw := range outer.Keys {
		k, err := parseJWK(raw)
		if err != nil {
			name := fmt.Sprintf("key %d", i+1)
			if k.kid != "" {
				name = strconv.Quote(clipped(k.kid, 64))
			}
			s.refused = append(s.refused, name+": "+err.Error())
			continue
		}
		s.keys = append(s.keys, k)
	}
	isSecret := func(k key) bool { _, ok := k.key.([]byte); return ok }
	if !secrets || slices.ContainsFunc(s.keys, func(k key) bool { return !isSecret(k) }) {
		// A set that is given to others holds no secrets: whoever reads it could sign with them.
		s.drop(isSecret, "a shared secret does not belong into a set of public keys")
	}
	s.drop(func(k key) bool {
		return k.kid != "" && 1 < countFunc(s.keys, func(o key) bool {
			return o.kid == k.kid && (o.alg == k.alg || o.alg == "" || k.alg == "") && describeKey(o.key) == describeKey(k.key)
		})
	}, "two keys have the same kid")
	if len(s.keys) == 0 {
		why := ""
		if len(s.refused) > 0 {
			why = ": " + s.refused[0]
		}
		return nil, errors.New("the key set has no key that signatures can be checked with" + why)
	}
	return s, nil
}

func countFunc(keys []key, is func(key) bool) (n int) {
	for _, k := range keys {
		if is(k) {
			n++
		}
	}
	return n
}

func (s *keySet) drop(which func(key) bool, why string) {
	var kept []key
	for _, k := range s.keys {
		if which(k) {
			s.refused = append(s.refused, strconv.Quote(clipped(k.kid, 64))+": "+why)
		} else {
			kept = append(kept, k)
		}
	}
	s.keys = kept
}

func parseJWK(raw json.RawMessage) (key, error) {
	var meta struct {
		Kid    string   `json:"kid"`
		Alg    string   `json:"alg"`
		Use    string   `json:"use"`
		KeyOps []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return key{}, errors.New("it is no JWK")
	}
	k := key{kid: meta.Kid, alg: meta.Alg}
	switch {
	case meta.Use != "" && meta.Use != "sig":
		return k, fmt.Errorf("its use is %q, not sig", clipped(meta.Use, 20))
	case meta.KeyOps != nil && !slices.Contains(meta.KeyOps, "verify"):
		return k, errors.New("its key_ops do not hold verify")
	}
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return k, fmt.Errorf("it cannot be read as a JWK (%s)", clipped(err.Error(), 160))
	}
	if parsed.KeyType().String() == "oct" {
		var secret []byte
		if err := jwk.Export(parsed, &secret); err != nil {
			return k, errors.New("its secret cannot be read")
		}
		k.key = secret
	} else if k.key, err = jwk.PublicRawKeyOf(parsed); err != nil {
		return k, errors.New("it holds no public key")
	}
	return k, sound(&k)
}

// sound brings a public key to the forms that fits knows, and refuses weak ones.
func sound(k *key) error {
	switch p := k.key.(type) {
	case rsa.PublicKey:
		k.key = &p
	case ecdsa.PublicKey:
		k.key = &p
	case *ed25519.PublicKey:
		k.key = *p
	}
	switch p := k.key.(type) {
	case *rsa.PublicKey:
		if p.N.BitLen() < 2048 {
			return fmt.Errorf("an RSA key of %d bits is too weak, 2048 is the least (RFC 7518 §3.3)", p.N.BitLen())
		}
		if p.N.BitLen() > 16384 {
			return fmt.Errorf("an RSA key of %d bits costs too much", p.N.BitLen())
		}
		if isROCA(p.N) {
			return errors.New("the RSA key comes from a generator known to be broken (CVE-2017-15361)")
		}
	case *ecdsa.PublicKey, ed25519.PublicKey, []byte:
	default:
		return errors.New("keys of that kind check no signatures here")
	}
	for _, alg := range append([]string{"HS256", "HS384", "HS512"}, asymmetric...) {
		if (k.alg == "" || k.alg == alg) && fits(alg, k.key) == "" {
			return nil
		}
	}
	if k.alg != "" {
		return fmt.Errorf("it is for %q, which fits no signature that it can make", clipped(k.alg, 20))
	}
	return fmt.Errorf("%s fits no algorithm", describeKey(k.key))
}

// isROCA recognises RSA keys of the broken generator: their modulus is a power of 65537 modulo each of the small
// primes (Nemec et al., "The Return of Coppersmith's Attack", 2017).
func isROCA(n *big.Int) bool {
	for _, p := range []int64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167} {
		rest := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power, found := int64(1), false
		for range p {
			if found = found || power == rest; found {
				break
			}
			power = power * 65537 % p
		}
		if !found {
			return false
		}
	}
	return true
}

// parseKeyFile reads public keys or certificates in PEM, or a JWK set.
func parseKeyFile(doc []byte) (*keySet, error) {
	if t := bytes.TrimSpace(doc); len(t) > 0 && t[0] == '{' {
		return parseKeySet(doc, true)
	}
	s := &keySet{sum: sha256.Sum256(doc)}
	for rest := doc; len(s.keys) < maxKeys; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		k := key{}
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			k.key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			k.key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				k.key = c.PublicKey
			}
		default:
			return nil, fmt.Errorf("it holds a %s; wanted public keys, certificates or a JWK set", strings.ToLower(clipped(block.Type, 40)))
		}
		if err != nil {
			return nil, fmt.Errorf("its %s cannot be read", strings.ToLower(block.Type))
		}
		if err := sound(&k); err != nil {
			return nil, err
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		return nil, errors.New("it holds neither PEM nor a JWK set")
	}
	return s, nil
}
