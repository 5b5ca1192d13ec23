package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/corazawaf/coraza/v3/http/e2e"
	"github.com/mccutchen/go-httpbin/v2/httpbin"

	"github.com/whygate/whygate/whytest"
)

// TestWAFEndToEnd runs the suite that Coraza has for whatever has its engine built in, in front of httpbin. It
// wants refusals to be empty, and ours explain: a proxy in front takes their bodies off, and sees that there are some.
func TestWAFEndToEnd(t *testing.T) {
	t.Parallel()
	var rules strings.Builder
	for line := range strings.Lines(e2e.Directives) {
		switch word, _, _ := strings.Cut(line, " "); word {
		case "SecRuleEngine", "SecRequestBodyAccess", "SecResponseBodyAccess", "SecResponseBodyMimeType": // the policy has settings for them
		default:
			rules.WriteString(line)
		}
	}
	file := filepath.Join(t.TempDir(), "e2e.conf")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	up := httptest.NewServer(httpbin.New())
	t.Cleanup(up.Close)
	whytest.EachEngine(t, func(t *testing.T, engine string) {
		n := whytest.Start(t, engine, whytest.API(up.URL, "/", "  - waf: {directives: "+file+", responses: inspect}"))
		target, _ := url.Parse("http://" + n.Addr())
		proxy := httputil.NewSingleHostReverseProxy(target)
		refused := 0
		proxy.ModifyResponse = func(res *http.Response) error {
			if res.Header.Get("Whygate-Refused-By") != "gateway" {
				return nil
			}
			b, err := io.ReadAll(res.Body)
			if reason := res.Header.Get("Whygate-Reason"); err != nil || !strings.HasPrefix(reason, "waf.") || !strings.Contains(string(b), reason) {
				t.Errorf("%s: %v %s", reason, err, b)
			}
			refused++
			res.Body, res.ContentLength = http.NoBody, 0
			res.Header.Set("Content-Length", "0")
			return nil
		}
		front := httptest.NewServer(proxy)
		t.Cleanup(front.Close)
		if err := e2e.Run(e2e.Config{ProxiedEntrypoint: front.URL, HttpbinEntrypoint: up.URL}); err != nil {
			t.Error(err)
		}
		if refused < 6 {
			t.Errorf("only %d calls were refused", refused)
		}
	})
}
