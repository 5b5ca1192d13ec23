package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// TestCSRFWithBrowser: a client that keeps cookies as browsers do, a form and fetch.
func TestCSRFWithBrowser(t *testing.T) {
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		up := whytest.Upstream(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login" {
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: r.URL.Query().Get("as"), Path: "/"})
			}
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", r.Method, b)
		})
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "    - csrf: {session: sid}"))
		jar, _ := cookiejar.New(nil)
		client := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
		do := func(method, path, contentType, body string, header ...string) (*http.Response, string) {
			t.Helper()
			req, err := http.NewRequest(method, n.URL(path), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if contentType != "" {
				req.Header.Set("Content-Type", contentType)
			}
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			return res, string(b)
		}
		refused := func(code string, res *http.Response, body string) {
			t.Helper()
			if res.StatusCode != 403 || res.Header.Get("Whygate-Reason") != code {
				t.Errorf("%d %s, want %s: %s", res.StatusCode, res.Header.Get("Whygate-Reason"), code, body)
			}
		}
		passes := func(want string, res *http.Response, body string) {
			t.Helper()
			if res.StatusCode != 200 || body != want {
				t.Errorf("%d %s, want %q: %.300q", res.StatusCode, res.Header.Get("Whygate-Reason"), want, body)
			}
		}
		res, body := do("POST", "/", "", "x")
		refused("csrf.missing-cookie", res, body)
		res, _ = do("GET", "/", "", "")
		token := res.Header.Get("X-CSRF-Token")
		if token == "" || res.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("no token: %v", res.Header)
		}
		own := n.URL("")
		res, body = do("POST", "/", "application/json", `{"a":1}`, "X-CSRF-Token", token, "Origin", own)
		passes(`POST {"a":1}`, res, body)
		if res.Header.Get("X-CSRF-Token") != "" {
			t.Error("a POST is answered with a token")
		}
		res, body = do("POST", "/", "application/json", `{}`, "X-CSRF-Token", token, "Origin", "https://evil.test")
		refused("csrf.foreign-origin", res, body)
		res, body = do("POST", "/", "application/json", `{}`, "Origin", own)
		refused("csrf.missing-token", res, body)

		// A form. The upstream gets it whole.
		form := url.Values{"note": {"hello & bye"}, "csrf_token": {token}}.Encode()
		res, body = do("POST", "/", "application/x-www-form-urlencoded", form)
		passes("POST "+form, res, body)
		res, body = do("POST", "/", "application/x-www-form-urlencoded", "note=x")
		refused("csrf.missing-token", res, body)
		var parts bytes.Buffer
		w := multipart.NewWriter(&parts)
		file, _ := w.CreateFormFile("upload", "a.bin")
		file.Write(bytes.Repeat([]byte("0123456789"), 20_000))
		w.WriteField("csrf_token", token)
		w.Close()
		res, body = do("POST", "/", w.FormDataContentType(), parts.String())
		passes("POST "+parts.String(), res, body)
		res, body = do("POST", "/", w.FormDataContentType(), strings.Repeat("x", 2<<20))
		if res.StatusCode != 413 || res.Header.Get("Whygate-Reason") != "content.too-large" {
			t.Errorf("a form of 2 MiB: %d %s", res.StatusCode, body)
		}
		res, body = do("PUT", "/", w.FormDataContentType(), strings.Repeat("x", 2<<20), "X-CSRF-Token", token)
		passes("PUT "+strings.Repeat("x", 2<<20), res, body)

		// Logging in makes another session, and the next page brings another token.
		do("GET", "/login?as=ann", "", "")
		res, body = do("POST", "/", "", "x", "X-CSRF-Token", token)
		refused("csrf.other-session", res, body)
		res, _ = do("GET", "/", "", "")
		if again := res.Header.Get("X-CSRF-Token"); again == token || res.Header.Get("Set-Cookie") == "" {
			t.Error("no token for the new session")
		}
		old := token
		token = res.Header.Get("X-CSRF-Token")
		res, body = do("DELETE", "/", "", "", "X-CSRF-Token", token)
		passes("DELETE ", res, body)
		res, body = do("DELETE", "/", "", "", "X-CSRF-Token", old)
		refused("csrf.mismatch", res, body)

		// The secret outlives revisions.
		n.Apply(whytest.API(up.URL, "/", "    - csrf: {session: sid, lifetime: 2h}"))
		res, body = do("DELETE", "/", "", "", "X-CSRF-Token", token)
		passes("DELETE ", res, body)
	})
}
