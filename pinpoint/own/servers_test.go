package own

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/diagnose"
)

// scenario is a refusal, what somebody hands in of it, and what the verdict must be. In the texts {at} is the
// address of the server, {host} its name with the port, {port} the port.
type scenario struct {
	name     string
	kind     string // of the input: curl, har, postman, raw, log, args
	text     string
	url      string // of a line of a log
	now      bool   // the clock of the recorded ones: readNow
	env      string // environment of a collection
	causes   []string
	refusers []string
	not      string // a product that must not be named
	outcomes []pinpoint.Outcome
	says     string // somewhere in the verdict
	secrets  []string
	most     int // requests, 0 for the budget
	options  func(*diagnose.Options)
	serve    func(*tally) http.Handler
	tls      *tls.Config // serve by TLS
}

// tally counts what a server saw.
type tally struct {
	requests, unsafe, marked atomic.Int64 // marked: unsafe with X-Whygate-Probe
	reached                  atomic.Int64 // unsafe requests at the real path, with their credential: they would have an effect
}

func (n *tally) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.requests.Add(1)
		if r.Method != "GET" && r.Method != "HEAD" && r.Method != "OPTIONS" {
			n.unsafe.Add(1)
			if r.Header.Get("X-Whygate-Probe") != "" {
				n.marked.Add(1)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// answer writes a whole answer.
func answer(w http.ResponseWriter, status int, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func refuseJSON(w http.ResponseWriter, status int, body string) {
	answer(w, status, "application/json", body)
}

// start runs the server of a scenario and fills in its address.
func (s *scenario) start(t *testing.T, n *tally) {
	if s.serve == nil {
		return
	}
	server := httptest.NewUnstartedServer(n.count(s.serve(n)))
	server.Config.ErrorLog = quiet
	if s.tls != nil {
		server.TLS = s.tls.Clone()
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	at := server.Listener.Addr().String()
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{at}", at, "{host}", "shop.test:"+port, "{port}", port)
	s.text, s.url = fill.Replace(s.text), fill.Replace(s.url)
}

// flat is a handler of one function.
type flat = func(w http.ResponseWriter, r *http.Request)

func one(f flat) func(*tally) http.Handler {
	return func(*tally) http.Handler { return http.HandlerFunc(f) }
}

// har is a recording of one exchange by a browser that keeps credentials.
func har(method, target, headers string, status int, answerHeaders, body string) string {
	return fmt.Sprintf(`{"log":{"version":"1.2","creator":{"name":"Firefox","version":"140.0"},"pages":[],"entries":[
{"startedDateTime":"2026-03-01T11:59:52.000Z","time":31,"request":{"method":%q,"url":%q,"httpVersion":"HTTP/1.1","headers":[%s],"queryString":[],"cookies":[],"headersSize":300,"bodySize":0},
"response":{"status":%d,"statusText":"","httpVersion":"HTTP/1.1","headers":[%s],"cookies":[],"content":{"size":%d,"mimeType":"text/html","text":%q},"redirectURL":"","headersSize":200,"bodySize":%d},"cache":{},"timings":{"send":0,"wait":31,"receive":0}}]}}`,
		method, target, headers, status, answerHeaders, len(body), body, len(body))
}

const firefox = `{"name":"User-Agent","value":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},{"name":"Accept","value":"*/*"}`

// The outcomes that scenarios accept.
var (
	proved    = []pinpoint.Outcome{pinpoint.Proved}
	named     = []pinpoint.Outcome{pinpoint.Proved, pinpoint.Likely}
	unknown   = []pinpoint.Outcome{pinpoint.Unknown}
	gone      = []pinpoint.Outcome{pinpoint.NotReproduced}
	forbidden = []pinpoint.Outcome{pinpoint.Unsafe}
)

const resolve = " --resolve shop.test:{port}:127.0.0.1"

const fortiPage = `<html><head><title>Web Page Blocked!</title><meta http-equiv="Content-Type" content="text/html; charset=utf-8"><style>.fgd_icon { width: 96px; }</style></head>
<body><div class="message-container"><div class="logo"></div><h1>Web Page Blocked!</h1><p>The page cannot be displayed. Please contact the administrator for additional information.</p>
<p>URL: shop.test/search</p><p>Client IP: 127.0.0.1</p><p>Attack ID: 20000008</p><p>Message ID: 000018273645</p></div></body></html>`

const loginPage = `<html><body><form method="post" action="/login"><input name="user"><input type="password" name="password"><button>Sign in</button></form></body></html>`

// expiredToken is a token of last year; its signature is no secret of anybody.
const expiredToken = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUvIiwiYXVkIjoic2hvcCIsImV4cCI6MTcwNDA2NzIwMCwic3ViIjoidTEifQ.c2lnbmF0dXJlLW9mLW5vYm9keQ"

// probe allows what cannot succeed.
func probe(o *diagnose.Options) { o.Replay.Probe = true }

// live are scenarios in which the server answers.
var live = []scenario{
	{name: "21-library-user-agent", kind: "curl", causes: []string{"user-agent-blocked"}, outcomes: proved, says: "User-Agent",
		// As Chrome's "copy as cURL (cmd)" writes it, with the agent of a script.
		text: `curl "http://{host}/feed?page=2" ^` + "\r\n" + `  -H "Accept: application/json" ^` + "\r\n" + `  -H "User-Agent: python-requests/2.31.0" ^` + "\r\n" + `  --resolve "shop.test:{port}:127.0.0.1"`,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "python") || strings.HasPrefix(r.UserAgent(), "curl") || strings.HasPrefix(r.UserAgent(), "Go-http") || r.UserAgent() == "" {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"items":[]}`)
		})},
	{name: "22-quota-of-a-key", kind: "curl", causes: []string{"quota-exceeded"}, outcomes: named, most: 4, secrets: []string{"k-77aa88bb99cc"},
		text: `curl 'http://{host}/v1/geocode?q=Bonn' -H 'X-Api-Key: k-77aa88bb99cc'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Api-Key") == "" {
				refuseJSON(w, 401, `{"message":"Missing API key"}`)
				return
			}
			w.Header().Set("Retry-After", "86400")
			refuseJSON(w, 403, `{"error":{"code":"QUOTA_EXCEEDED","message":"Your key has used its monthly quota of 1000 calls"}}`)
		})},
	{name: "23-refused-with-200", kind: "curl", causes: []string{"waf-managed-rule"}, refusers: []string{"fortiweb"}, outcomes: named, says: "Attack ID",
		text:  `curl 'http://{host}/search?q=union+select'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) { answer(w, 200, "text/html", fortiPage) })},
	{name: "24-hidden-by-404", kind: "curl", causes: []string{"refuser-only"}, outcomes: unknown, secrets: []string{"tok-of-ann-1234567"},
		text: `curl 'http://{host}/repos/acme/secret-plans' -H 'Authorization: Bearer tok-of-ann-1234567'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			refuseJSON(w, 404, `{"message":"Not Found","status":"404"}`)
		})},
	{name: "25-redirect-to-login", kind: "curl", causes: []string{"session-expired"}, outcomes: named, secrets: []string{"9f8e7d6c5b4a39281706"},
		text: `curl 'http://{host}/dashboard' -H 'Cookie: sessionid=9f8e7d6c5b4a39281706'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login" {
				answer(w, 200, "text/html", loginPage)
				return
			}
			w.Header().Set("Set-Cookie", "sessionid=; Path=/; Max-Age=0")
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.Path), http.StatusFound)
		})},
	{name: "26-flaky", kind: "raw", causes: []string{"not-reproduced"}, outcomes: gone,
		text: "GET http://{at}/list HTTP/1.1\nHost: {at}\nUser-Agent: Mozilla/5.0\n\nHTTP/1.1 403 Forbidden\nContent-Type: text/plain; charset=utf-8\n\nno\n",
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.requests.Load()%2 == 1 {
					answer(w, 403, "text/plain; charset=utf-8", "no\n")
					return
				}
				answer(w, 200, "text/plain; charset=utf-8", "yes\n")
			})
		}},
	{name: "27-ban-after-five", kind: "curl", causes: []string{"refuser-only", "waf-escalated-ban", "ip-temporarily-banned"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		text: `curl 'http://{host}/admin/export' -A 'Mozilla/5.0'` + resolve,
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case n.requests.Load() > 5:
					answer(w, 403, "text/html", "<h1>Banned</h1><p>Your address sent too many suspicious requests.</p>")
				case strings.HasPrefix(r.URL.Path, "/admin/"):
					refuseJSON(w, 403, `{"error":"forbidden"}`)
				default:
					answer(w, 200, "text/html", "<h1>Shop</h1>")
				}
			})
		}},
	{name: "28-refusal-from-a-cache", kind: "curl", causes: []string{"cdn-cached-refusal"}, outcomes: proved,
		text: `curl 'http://{host}/data/prices.json' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Via", "1.1 edge7")
			if r.URL.RawQuery == "" {
				w.Header().Set("Age", "431")
				w.Header().Set("X-Cache", "HIT")
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			w.Header().Set("X-Cache", "MISS")
			refuseJSON(w, 200, `{"prices":[1,2]}`)
		})},
	{name: "29-host-with-port", kind: "curl", causes: []string{"host-not-allowed"}, outcomes: proved, says: "Host",
		text: `curl 'http://{host}/' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "shop.test" {
				answer(w, 403, "text/plain; charset=utf-8", "Forbidden\n")
				return
			}
			answer(w, 200, "text/html", "<h1>Shop</h1>")
		})},
	{name: "30-signed-link-over", kind: "args", causes: []string{"app-signed-url-invalid"}, outcomes: named, secrets: []string{"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
		text: `http://{at}/email/verify/7?expires=1704067200&signature=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			refuseJSON(w, 403, `{"message":"Invalid signature."}`)
		})},
	{name: "31-cookies-too-large", kind: "curl", causes: []string{"header-too-large"}, outcomes: proved, says: "ookie",
		text: `curl 'http://{host}/account' -A 'Mozilla/5.0' -H 'Cookie: lang=en; cart=` + strings.Repeat("abcdefgh", 900) + `; theme=dark'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header.Get("Cookie")) > 4096 {
				w.Header().Set("Server", "app-gw")
				answer(w, 400, "text/html", "<html><body><h1>Bad Request</h1>Your browser sent a request that this server could not understand.</body></html>")
				return
			}
			answer(w, 200, "text/html", "<h1>Account</h1>")
		})},
	{name: "32-preflight-needs-login", kind: "curl", causes: []string{"cors-preflight-refused"}, outcomes: named,
		text: `curl -X OPTIONS 'http://{host}/api/items/5' -H 'Origin: https://app.test' -H 'Access-Control-Request-Method: PATCH' -H 'Access-Control-Request-Headers: content-type' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="items"`)
			refuseJSON(w, 401, `{"message":"Unauthorized"}`)
		})},
	{name: "33-two-faults", kind: "curl", causes: []string{"user-agent-blocked", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely, pinpoint.Proved}, secrets: []string{"c2lnbmF0dXJlLW9mLW5vYm9keQ"},
		// The agent is refused first, with 403; behind it the token would be, with 401.
		text: `curl 'http://{host}/api/me' -A 'curl/8.5.0' -H 'Authorization: Bearer ` + expiredToken + `'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasPrefix(r.UserAgent(), "curl"):
				answer(w, 403, "text/html", "<h1>Access denied</h1><p>This client is not welcome.</p>")
			case r.Header.Get("Authorization") != "":
				w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", error_description="The token is expired"`)
				refuseJSON(w, 401, `{"message":"token expired"}`)
			default:
				w.Header().Set("WWW-Authenticate", `Bearer`)
				refuseJSON(w, 401, `{"message":"token missing"}`)
			}
		})},
	{name: "34-healed", kind: "har", causes: []string{"not-reproduced"}, outcomes: gone,
		text:  har("GET", "http://{at}/docs/guide", firefox, 403, `{"name":"Content-Type","value":"text/html"}`, "<h1>Forbidden</h1>"),
		serve: one(func(w http.ResponseWriter, r *http.Request) { answer(w, 200, "text/html", "<h1>Guide</h1>") })},
	{name: "35-behind-two-proxies", kind: "curl", causes: []string{"role-insufficient"}, refusers: []string{"django-rest-framework"}, not: "nginx", outcomes: named, secrets: []string{"tok-of-bob-7654321"},
		text: `curl 'http://{host}/api/audit/' -A 'Mozilla/5.0' -H 'Authorization: Token tok-of-bob-7654321'` + resolve, serve: twoProxies},
	{name: "36-delete-not-routed", kind: "raw", causes: []string{"method-not-allowed"}, outcomes: named, says: "GET",
		text: "DELETE http://{at}/api/items/5 HTTP/1.1\nHost: {at}\nUser-Agent: shop-cli/2\n\nHTTP/1.1 405 Method Not Allowed\nAllow: GET, HEAD, OPTIONS\nContent-Type: application/json\n\n{\"detail\":\"Method \\\"DELETE\\\" not allowed.\"}\n",
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			switch r.Method {
			case "GET", "HEAD", "OPTIONS":
				refuseJSON(w, 200, `{}`)
			default:
				refuseJSON(w, 405, `{"detail":"Method \"DELETE\" not allowed."}`)
			}
		})},
	{name: "37-delete-without-answer", kind: "curl", causes: []string{"refuser-only"}, outcomes: forbidden, says: "--",
		text: `curl -X DELETE 'http://{host}/api/items/5' -A 'shop-cli/2'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "DELETE" {
				refuseJSON(w, 403, `{"error":"items of a paid order cannot be deleted"}`)
				return
			}
			refuseJSON(w, 200, `{}`)
		})},
	{name: "38-client-certificate", kind: "curl", causes: []string{"mtls-client-cert-missing"}, outcomes: named,
		text: `curl -k 'https://{host}/v1/ledger' -A 'Mozilla/5.0'` + resolve, tls: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()},
		serve: one(func(w http.ResponseWriter, r *http.Request) { refuseJSON(w, 200, `{}`) })},
	{name: "39-http-to-tls", kind: "curl", causes: []string{"plain-http-on-tls-port"}, outcomes: named, says: "https",
		text: `curl -k 'http://{host}/v1/ledger' -A 'Mozilla/5.0'` + resolve, tls: &tls.Config{},
		serve: one(func(w http.ResponseWriter, r *http.Request) { refuseJSON(w, 200, `{}`) })},
	{name: "40-accept-too-narrow", kind: "curl", causes: []string{"accept-unacceptable"}, outcomes: proved, says: "Accept",
		text: `curl 'http://{host}/v3/report' -A 'Mozilla/5.0' -H 'Accept: application/vnd.acme.v9+json'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if a := r.Header.Get("Accept"); a != "" && !strings.Contains(a, "*/*") && !strings.Contains(a, "application/json") {
				answer(w, 406, "text/plain; charset=utf-8", "Not Acceptable\n")
				return
			}
			refuseJSON(w, 200, `{}`)
		})},
	{name: "41-slash", kind: "curl", causes: []string{"trailing-slash"}, outcomes: proved,
		text: `curl 'http://{host}/docs/api' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/docs/api/" {
				answer(w, 200, "text/html", "<h1>API</h1>")
				return
			}
			answer(w, 403, "text/html", "<h1>Forbidden</h1>")
		})},
	{name: "42-unknown-firewall", kind: "raw", outcomes: named, causes: []string{"waf-managed-rule", "waf-custom-rule", "waf-crs-anomaly"}, says: "note",
		// A firewall of no known make, in front of everything: it may be asked through a path that does not exist.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: Mozilla/5.0\nContent-Type: application/json\n\n{\"title\":\"hello\",\"note\":\"see <script>alert(1)</script> here\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: text/html\n\n<html><body><h1>Request blocked</h1><p>Your request was blocked by the security policy. Reference 55-1029</p></body></html>\n",
		options: func(o *diagnose.Options) { o.Bisect = true },
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
				all := strings.ToLower(r.URL.RawQuery + string(body))
				if strings.Contains(all, "<script") || strings.Contains(all, "%3cscript") {
					answer(w, 403, "text/html", "<html><body><h1>Request blocked</h1><p>Your request was blocked by the security policy. Reference 55-1029</p></body></html>")
					return
				}
				if r.URL.Path != "/api/notes" {
					refuseJSON(w, 404, `{"detail":"no such route"}`)
					return
				}
				if r.Method == "POST" {
					n.reached.Add(1)
				}
				refuseJSON(w, 201, `{"id":1}`)
			})
		}},
	{name: "70-foreign-origin", kind: "curl", causes: []string{"cors-origin-not-allowed"}, outcomes: named,
		text: `curl 'http://{host}/api/prices' -A 'Mozilla/5.0' -H 'Origin: https://partner.example'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if o := r.Header.Get("Origin"); o != "" && !strings.Contains(o, "shop.test") {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"prices":[]}`)
		})},
	{name: "71-hotlink", kind: "curl", causes: []string{"hotlink-referer"}, outcomes: proved, says: "Referer",
		text: `curl 'http://{host}/img/cat.jpg' -A 'Mozilla/5.0' -H 'Referer: https://forum.example/thread/7'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if ref := r.Header.Get("Referer"); ref != "" && !strings.Contains(ref, "shop.test") {
				answer(w, 403, "text/html", "<h1>Forbidden</h1>")
				return
			}
			answer(w, 200, "image/jpeg", "jpeg")
		})},
	{name: "72-forwarding-field", kind: "curl", causes: []string{"xff-untrusted-chain"}, outcomes: proved, says: "X-Forwarded-For",
		text: `curl 'http://{host}/internal/metrics' -A 'Mozilla/5.0' -H 'X-Forwarded-For: 10.0.0.9'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Forwarded-For") != "" {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"up":1}`)
		})},
	{name: "73-nine-of-ten", kind: "curl", causes: []string{"not-reproduced", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.NotReproduced, pinpoint.Unknown, pinpoint.Likely},
		text: `curl 'http://{host}/lottery' -A 'curl/8.5.0'` + resolve,
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.requests.Load()%6 == 4 {
					refuseJSON(w, 200, `{"won":true}`)
					return
				}
				refuseJSON(w, 403, `{"error":"forbidden"}`)
			})
		}},
	{name: "74-heals-meanwhile", kind: "curl", causes: []string{"not-reproduced", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.NotReproduced, pinpoint.Unknown},
		text: `curl 'http://{host}/report' -A 'curl/8.5.0'` + resolve,
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.requests.Load() > 3 {
					refuseJSON(w, 200, `{"rows":[]}`)
					return
				}
				refuseJSON(w, 403, `{"error":"forbidden"}`)
			})
		}},
	{name: "75-limit-without-fields", kind: "raw", causes: []string{"rate-limit-as-403"}, outcomes: named,
		text: "GET http://{at}/search?q=a HTTP/1.1\nHost: {at}\nUser-Agent: Mozilla/5.0\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.requests.Load() > 4 {
					refuseJSON(w, 403, `{"error":"forbidden"}`)
					return
				}
				refuseJSON(w, 200, `{"hits":[]}`)
			})
		}},
	{name: "76-stale-cookie", kind: "curl", causes: []string{"session-expired", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Likely, pinpoint.Proved, pinpoint.Unknown}, secrets: []string{"0badc0ffee0badc0ffee"},
		text: `curl 'http://{host}/shop' -A 'Mozilla/5.0' -H 'Cookie: sessionid=0badc0ffee0badc0ffee; lang=en'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if c, err := r.Cookie("sessionid"); err == nil && c.Value != "" {
				answer(w, 403, "text/html", "<h1>Sorry</h1><p>We could not let you in.</p>")
				return
			}
			answer(w, 200, "text/html", "<h1>Shop</h1>")
		})},
	{name: "77-credential-spoils-it", kind: "curl", causes: []string{"auth-credentials-invalid", "refuser-only", "token-revoked"}, outcomes: []pinpoint.Outcome{pinpoint.Likely, pinpoint.Proved, pinpoint.Unknown}, secrets: []string{"tok-of-eve-1112223"},
		text: `curl 'http://{host}/public/news' -A 'Mozilla/5.0' -H 'Authorization: Bearer tok-of-eve-1112223'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"news":[]}`)
		})},
	{name: "78-post-refused-get-served", kind: "raw", causes: []string{"method-denied-by-rule", "method-not-allowed", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Likely, pinpoint.Unknown},
		text: "POST http://{at}/pages/7 HTTP/1.1\nHost: {at}\nUser-Agent: cms/2\nContent-Type: application/json\n\n{\"a\":1}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" || r.Method == "HEAD" {
				refuseJSON(w, 200, `{"page":7}`)
				return
			}
			refuseJSON(w, 403, `{"error":"forbidden"}`)
		})},
	{name: "79-one-parameter", kind: "curl", causes: []string{"waf-custom-rule", "waf-managed-rule", "waf-crs-anomaly", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Likely, pinpoint.Unknown, pinpoint.Proved}, says: "file",
		text: `curl 'http://{host}/view?page=2&file=../../etc/passwd&lang=en' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.RawQuery, "..") {
				answer(w, 403, "text/html", "<h1>Not acceptable</h1>")
				return
			}
			answer(w, 200, "text/html", "<h1>View</h1>")
		})},
	{name: "82-object-of-another", kind: "curl", causes: []string{"refuser-only", "app-object-ownership"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		// The application looks whose object is asked for; a firewall has no part in it.
		text: `curl 'http://{host}/invoices?customer=4711&year=2026' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("customer") == "4711" {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"invoices":[]}`)
		})},
	{name: "83-a-query-is-needed", kind: "curl", not: "http-cache", causes: []string{"refuser-only", "schema-violation", "auth-missing", "api-key-missing"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		// Any query passes; nothing speaks of a cache.
		text: `curl 'http://{host}/feed' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.RawQuery == "" {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"feed":[]}`)
		})},
	{name: "84-a-cookie-is-malformed", kind: "curl", causes: []string{"refuser-only", "body-malformed", "session-expired"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		// One small cookie is not understood: its size has no part in it.
		text: `curl 'http://{host}/home' -A 'Mozilla/5.0' -H 'Cookie: lang=en; prefs=%7Bbad; theme=dark'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if c, err := r.Cookie("prefs"); err == nil && strings.Contains(c.Value, "%7B") {
				refuseJSON(w, 400, `{"error":"bad request"}`)
				return
			}
			refuseJSON(w, 200, `{}`)
		})},
	{name: "85-a-language", kind: "curl", causes: []string{"refuser-only", "accept-unacceptable", "geo-blocked", "waf-custom-rule"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		text: `curl 'http://{host}/home' -A 'Mozilla/5.0' -H 'Accept-Language: tlh'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Language") == "tlh" {
				answer(w, 403, "text/html", "<h1>No</h1>")
				return
			}
			answer(w, 200, "text/html", "<h1>Yes</h1>")
		})},
	{name: "86-get-refused-head-not", kind: "curl", causes: []string{"refuser-only", "method-denied-by-rule", "method-not-allowed"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		// Whoever wrote the rule forgot HEAD.
		text: `curl 'http://{host}/dump.sql' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "HEAD" {
				answer(w, 200, "application/sql", "")
				return
			}
			answer(w, 403, "text/html", "<h1>No</h1>")
		})},
	{name: "87-everything-else-is-the-app", kind: "curl", causes: []string{"refuser-only"}, outcomes: unknown,
		// One path is refused; every other one, whatever its name, is the page of the application.
		text: `curl 'http://{host}/admin' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/admin" {
				answer(w, 403, "text/html", "<h1>No</h1>")
				return
			}
			answer(w, 200, "text/html", `<div id="root"></div>`)
		})},
	{name: "88-query-cached-by-name", kind: "curl", causes: []string{"refuser-only", "app-object-ownership"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely},
		// An age, and yet the refusal is made anew: what is asked about is refused with every query.
		text: `curl 'http://{host}/vault' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Cache", "HIT")
			w.Header().Set("Age", "12")
			refuseJSON(w, 403, `{"error":"forbidden"}`)
		})},
	{name: "89-agent-refused-by-name", kind: "curl", causes: []string{"user-agent-blocked", "refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely, pinpoint.Proved},
		// Only agents with Mozilla in their name are refused: the other way round than usual.
		text: `curl 'http://{host}/api' -A 'Mozilla/5.0 (compatible)'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "Mozilla") {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{}`)
		})},
	{name: "90-probe-the-application", kind: "raw", causes: []string{"refuser-only", "role-insufficient", "scope-insufficient", "app-business-rule"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely}, secrets: []string{"tok-of-jim-5556667"},
		// The application refuses behind its routes: no firewall may be blamed.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\nAuthorization: Bearer tok-of-jim-5556667\n\n{\"title\":\"a\",\"text\":\"b\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		options: probe,
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path != "/api/notes":
					refuseJSON(w, 404, `{"error":"no route"}`)
				case r.Header.Get("Authorization") == "":
					refuseJSON(w, 401, `{"error":"who are you"}`)
				case r.Method == "POST":
					n.reached.Add(1)
					refuseJSON(w, 403, `{"error":"forbidden"}`)
				default:
					refuseJSON(w, 200, `{"notes":[]}`)
				}
			})
		}},
	{name: "91-probe-a-closed-door", kind: "raw", causes: []string{"refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely}, secrets: []string{"tok-of-jim-5556667"},
		// Whatever is asked for is refused: neither the content nor the path has a part in it.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\nAuthorization: Bearer tok-of-jim-5556667\n\n{\"title\":\"a\",\"text\":\"b\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		options: probe,
		serve:   one(func(w http.ResponseWriter, r *http.Request) { refuseJSON(w, 403, `{"error":"forbidden"}`) })},
	{name: "92-probe-a-catch-all", kind: "raw", causes: []string{"refuser-only", "app-business-rule"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely, pinpoint.NotReproduced}, most: 12, secrets: []string{"tok-of-jim-5556667"},
		// Any path takes a POST: after the first no second may follow.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\nAuthorization: Bearer tok-of-jim-5556667\n\n{\"title\":\"a\",\"text\":\"b\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		options: probe,
		serve: func(n *tally) http.Handler {
			taken := 0
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == "POST" && r.URL.Path == "/api/notes":
					if r.Header.Get("Authorization") != "" {
						n.reached.Add(1)
					}
					refuseJSON(w, 403, `{"error":"forbidden"}`)
				case r.Method == "POST":
					if taken++; taken > 1 {
						n.reached.Add(1)
					}
					refuseJSON(w, 201, `{"id":1}`)
				default:
					refuseJSON(w, 200, `{}`)
				}
			})
		}},
	{name: "94-bisect-a-catch-all", kind: "raw", causes: []string{"refuser-only", "app-business-rule"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely, pinpoint.NotReproduced}, most: 12, secrets: []string{"tok-of-jim-5556667"},
		// Any path takes a POST: after the first no second may follow.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\nAuthorization: Bearer tok-of-jim-5556667\n\n{\"title\":\"a\",\"text\":\"b\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		options: func(o *diagnose.Options) { o.Bisect = true },
		serve: func(n *tally) http.Handler {
			taken := 0
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == "POST" && r.URL.Path == "/api/notes":
					if r.Header.Get("Authorization") != "" {
						n.reached.Add(1)
					}
					refuseJSON(w, 403, `{"error":"forbidden"}`)
				case r.Method == "POST":
					if taken++; taken > 1 {
						n.reached.Add(1)
					}
					refuseJSON(w, 201, `{"id":1}`)
				default:
					refuseJSON(w, 200, `{}`)
				}
			})
		}},
	{name: "95-bisect-a-put", kind: "raw", causes: []string{"refuser-only"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely}, most: 24,
		// PUT would create the decoy: nothing is sent to it, and there is a verdict all the same.
		text:    "PUT http://{at}/api/notes/7 HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\n\n{\"text\":\"b\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: application/json\n\n{\"error\":\"forbidden\"}\n",
		options: func(o *diagnose.Options) { o.Bisect = true },
		serve: func(n *tally) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "PUT" {
					n.reached.Add(1)
					refuseJSON(w, 403, `{"error":"forbidden"}`)
					return
				}
				refuseJSON(w, 403, `{"error":"forbidden"}`)
			})
		}},
	{name: "96-line-of-a-log", kind: "log", url: "http://{at}", causes: []string{"user-agent-blocked"}, outcomes: proved, says: "User-Agent",
		text: `192.0.2.44 - - [01/Mar/2026:11:58:20 +0000] "GET /feed HTTP/1.1" 403 21 "-" "python-requests/2.31.0"`,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "python") {
				refuseJSON(w, 403, `{"error":"forbidden"}`)
				return
			}
			refuseJSON(w, 200, `{"items":[]}`)
		})},
	{name: "97-postman-key", kind: "postman", causes: []string{"api-key-invalid"}, outcomes: named, secrets: []string{"k-0f1e2d3c4b5a6978"},
		text: `{"info":{"_postman_id":"6f1c2a34-0000-4000-8000-000000000003","name":"Geo","schema":"https://schema.getpostman.com/json/collection/v2.1.0/collection.json"},
"item":[{"name":"Find","request":{"method":"GET","header":[],"auth":{"type":"apikey","apikey":[{"key":"key","value":"X-Api-Key"},{"key":"value","value":"k-0f1e2d3c4b5a6978"},{"key":"in","value":"header"}]},"url":{"raw":"http://{at}/v1/find?q=Bonn","protocol":"http","host":["127","0","0","1"],"port":"{port}","path":["v1","find"],"query":[{"key":"q","value":"Bonn"}]}}}]}`,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Api-Key") == "" {
				refuseJSON(w, 401, `{"message":"No API key found in request"}`)
				return
			}
			refuseJSON(w, 403, `{"message":"Invalid API key"}`)
		})},
	{name: "98-socket-of-another-site", kind: "curl", causes: []string{"websocket-origin-refused"}, outcomes: proved, says: "Origin",
		text: `curl 'http://{host}/live' -A 'Mozilla/5.0' -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H 'Origin: https://partner.example'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if o := r.Header.Get("Origin"); o != "" && !strings.Contains(o, "shop.test") {
				answer(w, 403, "text/plain", "Forbidden")
				return
			}
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(101)
		})},
	{name: "99-two-flips", kind: "curl", causes: []string{"user-agent-blocked", "hotlink-referer", "refuser-only", "waf-custom-rule"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely, pinpoint.Proved},
		// Either of two changes lets it pass: a rule of two conditions.
		text: `curl 'http://{host}/file.zip' -A 'Wget/1.21' -H 'Referer: https://forum.example/'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.UserAgent(), "Wget") && strings.Contains(r.Referer(), "forum") {
				answer(w, 403, "text/html", "<h1>No</h1>")
				return
			}
			answer(w, 200, "application/zip", "zip")
		})},
	{name: "93-bisect-with-a-ban", kind: "raw", causes: []string{"refuser-only", "waf-escalated-ban", "waf-managed-rule", "waf-custom-rule", "waf-crs-anomaly", "ip-temporarily-banned"}, outcomes: []pinpoint.Outcome{pinpoint.Unknown, pinpoint.Likely}, most: 60,
		// After six refusals the address is out: the search must notice.
		text:    "POST http://{at}/api/notes HTTP/1.1\nHost: {at}\nUser-Agent: notes/3\nContent-Type: application/json\n\n{\"title\":\"a\",\"text\":\"x' OR '1'='1\"}\n\nHTTP/1.1 403 Forbidden\nContent-Type: text/html\n\n<h1>Blocked</h1>\n",
		options: func(o *diagnose.Options) { o.Bisect = true },
		serve: func(n *tally) http.Handler {
			strikes := 0
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
				if strikes >= 6 || strings.Contains(string(body), "OR '1'") {
					strikes++
					answer(w, 403, "text/html", "<h1>Blocked</h1>")
					return
				}
				if r.Method == "POST" && r.URL.Path == "/api/notes" {
					n.reached.Add(1)
				}
				refuseJSON(w, 404, `{"error":"no route"}`)
			})
		}},
	{name: "80-graphql-live", kind: "curl", causes: []string{"graphql-forbidden"}, outcomes: named,
		text: `curl 'http://{host}/graphql?query=%7Bsalary%7D' -A 'Mozilla/5.0'` + resolve,
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			refuseJSON(w, 200, `{"data":{"salary":null},"errors":[{"message":"not for you","path":["salary"],"extensions":{"code":"FORBIDDEN"}}]}`)
		})},
	{name: "81-another-page-now", kind: "har", causes: []string{"baseline-differs", "tool-fingerprint-blocked"}, outcomes: []pinpoint.Outcome{pinpoint.NotReproduced, pinpoint.Unknown, pinpoint.Likely},
		text: har("GET", "http://{at}/docs/guide", firefox, 403, `{"name":"Content-Type","value":"text/html"}`, "<h1>You lack the role editor</h1>"),
		serve: one(func(w http.ResponseWriter, r *http.Request) {
			answer(w, 403, "text/html", "<h1>Just a check</h1><p>Verify you are human: captcha</p>")
		})},
}

// twoProxies is an application of Django REST framework behind two proxies that both leave their mark.
func twoProxies(n *tally) http.Handler {
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "GET, HEAD, OPTIONS")
		w.Header().Set("Vary", "Accept, Cookie")
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Token")
			refuseJSON(w, 401, `{"detail":"Authentication credentials were not provided."}`)
			return
		}
		refuseJSON(w, 403, `{"detail":"You do not have permission to perform this action."}`)
	})
	inner := through(app, func(h http.Header) { h.Add("Via", "1.1 inner") })
	return through(inner, func(h http.Header) { h.Add("Via", "1.1 edge"); h.Set("Server", "nginx") })
}

// through is a proxy in front of a handler, with what it does to the answer.
func through(next http.Handler, mark func(http.Header)) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", "next", p.In.Host
		},
		Transport:      inMemory{next},
		ModifyResponse: func(r *http.Response) error { mark(r.Header); return nil },
	}
}

// inMemory asks a handler instead of a network.
type inMemory struct{ next http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.next.ServeHTTP(w, r)
	return w.Result(), nil
}
