package gateway_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
)

// openID is an OpenID provider that others have written and had certified: discovery, tokens, keys and introspection are
// theirs. Added are keys that rotate, the audience of tokens, and outages.
type openID struct {
	*storage.Storage
	server *httptest.Server

	mu       sync.Mutex // guards what follows
	keys     []openIDKey
	audience string
	opaque   bool
	down     bool
}

type openIDKey struct {
	id      string
	private *rsa.PrivateKey
}

func (k openIDKey) ID() string                                  { return k.id }
func (k openIDKey) Key() any                                    { return k.private }
func (k openIDKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

type openIDPublic struct{ openIDKey }

func (k openIDPublic) Key() any                           { return &k.private.PublicKey }
func (k openIDPublic) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k openIDPublic) Use() string                        { return "sig" }

// openIDClient says of which kind its tokens are.
type openIDClient struct {
	op.Client
	kind op.AccessTokenType
}

func (c openIDClient) AccessTokenType() op.AccessTokenType { return c.kind }

func startOpenID(t *testing.T) *openID {
	t.Helper()
	resource := storage.WebClient("gateway", "gateway-secret")
	p := &openID{audience: "https://api.shop.test"}
	p.server = httptest.NewUnstartedServer(nil)
	issuer := "http://" + p.server.Listener.Addr().String()
	p.Storage = storage.NewStorageWithClients(storage.NewUserStore(issuer), map[string]*storage.Client{"gateway": resource})
	p.rotate(t)
	provider, err := op.NewProvider(&op.Config{CryptoKey: [32]byte{1}, AuthMethodPost: true, SupportedScopes: []string{"openid"}}, p, op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		t.Fatal(err)
	}
	p.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.mu.Unlock()
		if down && r.URL.Path != "/oauth/token" {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		provider.ServeHTTP(w, r)
	})
	p.server.Start()
	t.Cleanup(p.server.Close)
	return p
}

// rotate makes a new key, which signs from now on, and withdraws the one before.
func (p *openID) rotate(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, openIDKey{fmt.Sprintf("rsa-%d", len(p.keys)+1), key})
}

// set changes what the provider does.
func (p *openID) set(change func()) { p.mu.Lock(); defer p.mu.Unlock(); change() }

// SigningKey, SignatureAlgorithms, KeySet, ClientCredentials and ClientCredentialsTokenRequest are those of op.Storage.
func (p *openID) SigningKey(context.Context) (op.SigningKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[len(p.keys)-1], nil
}

func (p *openID) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (p *openID) KeySet(context.Context) ([]op.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return []op.Key{openIDPublic{p.keys[len(p.keys)-1]}}, nil
}

func (p *openID) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	c, err := p.Storage.ClientCredentials(ctx, id, secret)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opaque {
		return openIDClient{c, op.AccessTokenTypeBearer}, err
	}
	return openIDClient{c, op.AccessTokenTypeJWT}, err
}

func (p *openID) ClientCredentialsTokenRequest(ctx context.Context, id string, scopes []string) (op.TokenRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opaque {
		id = "id1" // a user of theirs: about others introspection knows nothing
	}
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{p.audience}, Scopes: scopes}, nil
}

// SetIntrospectionFromToken adds the audience, of which the original says nothing.
func (p *openID) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, token, subject, client string) error {
	if err := p.Storage.SetIntrospectionFromToken(ctx, answer, token, subject, client); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	answer.Subject, answer.Audience = subject, oidc.Audience{p.audience}
	return nil
}

// token asks for one as clients do (RFC 6749 §4.4).
func (p *openID) token(t *testing.T) string {
	t.Helper()
	res, err := http.PostForm(p.server.URL+"/oauth/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {"sid1"}, "client_secret": {"verysecret"}, "scope": {"openid"}})
	if err != nil {
		t.Fatal(err)
	}
	return tokenIn(t, res)
}

// The policy jwt with an OpenID provider that we have not written: its keys rotate, it goes away, and it makes tokens for others.
func TestOpenIDProvider(t *testing.T) {
	t.Parallel()
	p := startOpenID(t)
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Who")) })
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", fmt.Sprintf("  - jwt: {issuer: %q, audience: [\"https://api.shop.test\"], refetch: 1s}\n  - transform: {request: {headers: {set: {X-Who: \"{subject}\"}}}}", p.server.URL)))
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	first := p.token(t)
	if a := until(t, n, "", bearer(first)); string(a.Body) != "sid1" {
		t.Errorf("the upstream is told that %q calls", a.Body)
	}

	p.set(func() { p.audience = "https://billing.shop.test" })
	if a := n.Call("GET", "/", "", bearer(p.token(t))); a.StatusCode != 401 || a.Header.Get("Whygate-Reason") != "jwt.audience" || !strings.Contains(a.Header.Get("Www-Authenticate"), `error="invalid_token"`) {
		t.Errorf("a token for another API: %d %v", a.StatusCode, a.Header)
	}
	p.set(func() { p.audience = "https://api.shop.test" })

	// A new key is found when a token names it, and the one before ends with it.
	p.rotate(t)
	second := p.token(t)
	until(t, n, "", bearer(second))
	if a := n.Call("GET", "/", "", bearer(first)); a.Header.Get("Whygate-Reason") != "jwt.unknown-key" {
		t.Errorf("a token of the key before: %d %s", a.StatusCode, a.Header.Get("Whygate-Reason"))
	}

	// The provider goes away: known keys are used, and the records say so; a token of a new key can be called neither right nor wrong.
	p.set(func() { p.down = true })
	p.rotate(t)
	third := p.token(t)
	if a := until(t, n, "jwt.keys-unavailable", bearer(third)); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header.Get("Www-Authenticate") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	a := n.Call("GET", "/", "", bearer(second))
	rec := n.Record(a)
	d, err := gateway.DecodeDetail(rec.Detail)
	if a.StatusCode != 200 || err != nil || rec.Flags&calllog.Hinted == 0 || !slices.ContainsFunc(d.Hints, func(h gateway.Hint) bool {
		return h.Code == "jwt.keys-stale" && strings.Contains(h.Text, "answers 502 Bad Gateway")
	}) || d.Identity == nil || d.Identity.Subject != "sid1" || d.Identity.Issuer != p.server.URL {
		t.Errorf("with the keys that are there: %d, record %s", a.StatusCode, rec.Detail)
	}
	p.set(func() { p.down = false })
	until(t, n, "", bearer(third))
}

// The policy introspection with the same provider, whose tokens are opaque.
func TestOpenIDIntrospection(t *testing.T) {
	t.Parallel()
	p := startOpenID(t)
	p.opaque, p.audience = true, "gateway"
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("gateway-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {})
	docs := func(client, audience string) string {
		return whytest.API(up.URL, "/", fmt.Sprintf("  - introspection: {endpoint: %q, clientId: %s, clientSecret: {file: %q}, audience: [%s], timeout: 20s, inactiveFor: 0s}", p.server.URL+"/oauth/introspect", client, secret, audience))
	}
	n := whytest.Start(t, "wire", docs("gateway", "gateway"))
	good := "Authorization: Bearer " + p.token(t)
	for header, want := range map[string]string{good: "", "Authorization: Bearer made-up": "introspection.inactive", good + "x": "introspection.inactive"} {
		if a := n.Call("GET", "/", "", header); a.Header.Get("Whygate-Reason") != want {
			t.Errorf("%s: %d %s, want %q", header, a.StatusCode, a.Body, want)
		}
	}
	if ps := n.Apply(docs("gateway", "billing")); ps.HasErrors() {
		t.Fatal(ps)
	}
	if a := n.Call("GET", "/", "", good); a.Header.Get("Whygate-Reason") != "introspection.audience" {
		t.Errorf("for another audience: %d %s", a.StatusCode, a.Body)
	}
	if ps := n.Apply(docs("stranger", "gateway")); ps.HasErrors() {
		t.Fatal(ps)
	}
	if a := n.Call("GET", "/", "", good); a.StatusCode != 503 || a.Header.Get("Whygate-Reason") != "introspection.unavailable" {
		t.Errorf("a gateway that the provider does not know: %d %s", a.StatusCode, a.Body)
	}
}
