// Package issuer is a small OpenID Connect provider for tests: discovery, a key set that rotates, a token
// endpoint (client credentials), introspection, and outages. Only tests import it.
package issuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Clients and their secrets that the token and introspection endpoints know.
const (
	Client  = "acme-web"
	Gateway = "gateway"
	Secret  = "correct-horse-battery-staple"
)

// Issuer makes tokens.
type Issuer struct {
	URL string
	// Now is the issuer's clock.
	Now func() time.Time

	mu      sync.Mutex // guards what follows
	keys    []*Key
	made    int
	down    bool
	slow    chan struct{} // answers wait for it, if it is not nil
	fetches int           // of the key set
	asked   int           // introspections
	revoked map[string]bool
	opaque  map[string]map[string]any
	jwks    string // instead of the key set
	meta    string // instead of the discovery document
}

// Key is what tokens are signed with.
type Key struct {
	ID      string
	Alg     string
	Private crypto.Signer
}

// New makes an issuer without a server; ServeHTTP answers for it.
func New(url string) *Issuer {
	i := &Issuer{URL: url, Now: time.Now, revoked: map[string]bool{}, opaque: map[string]map[string]any{}}
	i.Rotate("ES256")
	return i
}

// Start makes an issuer with a server on loopback.
func Start(t testing.TB) *Issuer {
	i := New("")
	s := httptest.NewServer(i)
	i.URL = s.URL
	t.Cleanup(s.Close)
	return i
}

// Rotate makes a new key, which signs from now on. The key before it stays published; older ones go.
func (i *Issuer) Rotate(alg string) *Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.made++
	k := &Key{ID: fmt.Sprintf("key-%d", i.made), Alg: alg}
	var err error
	switch alg {
	case "RS256":
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, k.Private, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic("BUG: no algorithm " + alg)
	}
	if err != nil {
		panic(err)
	}
	if i.keys = append(i.keys, k); len(i.keys) > 2 {
		i.keys = i.keys[1:]
	}
	return k
}

// Key signs at present.
func (i *Issuer) Key() *Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

// Down has every request answered with 503, or not.
func (i *Issuer) Down(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// Hold has requests wait until release is called.
func (i *Issuer) Hold() (release func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := make(chan struct{})
	i.slow = c
	return sync.OnceFunc(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.slow = nil
		close(c)
	})
}

// Publish serves this text in place of the key set, and meta in place of the discovery document; "" the right one.
func (i *Issuer) Publish(jwks, meta string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.jwks, i.meta = jwks, meta
}

// Fetches says how often the key set was asked for.
func (i *Issuer) Fetches() int { i.mu.Lock(); defer i.mu.Unlock(); return i.fetches }

// Asked says how often a token was introspected.
func (i *Issuer) Asked() int { i.mu.Lock(); defer i.mu.Unlock(); return i.asked }

// Revoke makes a token inactive.
func (i *Issuer) Revoke(token string) { i.mu.Lock(); defer i.mu.Unlock(); i.revoked[token] = true }

// Claims are the usual claims of an access token, changed by what is given; nil takes a claim out.
func (i *Issuer) Claims(change map[string]any) map[string]any {
	now := i.Now()
	c := map[string]any{"iss": i.URL, "sub": "ann", "aud": "https://api.shop.test", "azp": Client, "scope": "orders.read orders.write",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// Token is an access token with the usual claims, changed.
func (i *Issuer) Token(change map[string]any) string {
	k := i.Key()
	payload, err := json.Marshal(i.Claims(change))
	if err != nil {
		panic(err)
	}
	return Sign(k, map[string]any{"alg": k.Alg, "kid": k.ID, "typ": "at+jwt"}, payload)
}

// Opaque is a token that only introspection can tell about.
func (i *Issuer) Opaque(change map[string]any) string {
	b := make([]byte, 16)
	rand.Read(b)
	token := fmt.Sprintf("opaque_%x", b)
	claims := i.Claims(change)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.opaque[token] = claims
	return token
}

// Sign makes a token in the compact form.
func Sign(k *Key, header map[string]any, payload []byte) string {
	head, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	input := Encode(head) + "." + Encode(payload)
	sum := sha256.Sum256([]byte(input))
	var sig []byte
	switch p := k.Private.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(nil, p, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, p, sum[:]); err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(p, []byte(input))
	}
	if err != nil {
		panic(err)
	}
	return input + "." + Encode(sig)
}

// SignHMAC makes a token with HS256.
func SignHMAC(secret []byte, header map[string]any, payload []byte) string {
	head, _ := json.Marshal(header)
	input := Encode(head) + "." + Encode(payload)
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(input))
	return input + "." + Encode(h.Sum(nil))
}

// Encode is base64url without padding.
func Encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// JWK is the public half of a key.
func (k *Key) JWK() map[string]any {
	m := map[string]any{"kid": k.ID, "alg": k.Alg, "use": "sig"}
	switch p := k.Private.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", Encode(p.N.Bytes()), Encode(big.NewInt(int64(p.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			panic(err)
		}
		m["kty"], m["crv"], m["x"], m["y"] = "EC", "P-256", Encode(point[1:33]), Encode(point[33:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", Encode(p)
	}
	return m
}

// KeySet is what the issuer publishes.
func (i *Issuer) KeySet() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.jwks != "" {
		return []byte(i.jwks)
	}
	keys := []any{}
	for _, k := range i.keys {
		keys = append(keys, k.JWK())
	}
	b, _ := json.Marshal(map[string]any{"keys": keys})
	return b
}

// ServeHTTP is the issuer as its clients see it.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	down, slow, meta := i.down, i.slow, i.meta
	i.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-r.Context().Done():
			return
		}
	}
	if down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		if meta != "" {
			w.Write([]byte(meta))
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "token_endpoint": i.URL + "/token",
			"introspection_endpoint": i.URL + "/introspect", "id_token_signing_alg_values_supported": []string{"ES256"}})
	case "/keys":
		i.mu.Lock()
		i.fetches++
		i.mu.Unlock()
		w.Write(i.KeySet())
	case "/token":
		i.token(w, r)
	case "/introspect":
		i.introspect(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	if !ok || secret != Secret || r.PostFormValue("grant_type") != "client_credentials" {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]any{"error": "invalid_client"})
		return
	}
	token := i.Token(map[string]any{"sub": id, "azp": id, "aud": r.PostFormValue("audience"), "scope": r.PostFormValue("scope")})
	json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 300})
}

// introspect answers as RFC 7662 says.
func (i *Issuer) introspect(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if id != Gateway || secret != Secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := r.PostFormValue("token")
	claims, known := i.opaque[token]
	exp, _ := claims["exp"].(int64)
	if !known || i.revoked[token] || exp <= i.Now().Unix() {
		w.Write([]byte(`{"active":false}`))
		return
	}
	answer := map[string]any{"active": true, "token_type": "Bearer"}
	maps.Copy(answer, claims)
	json.NewEncoder(w).Encode(answer)
}
