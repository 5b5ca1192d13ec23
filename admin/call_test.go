package admin

import (
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/calllog"
)

// Records that cannot be read are not told as calls that there are not.
func TestUnreadableRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "calls")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := calllog.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Calls: r, Token: "test-token", Log: slog.New(slog.DiscardHandler)}
	ask := func(id string) (int, string) {
		req := httptest.NewRequest("GET", "/v1/calls/"+id, nil)
		req.Header.Set("Authorization", "Bearer test-token")
		w := httptest.NewRecorder()
		s.HTTPServer().Handler.ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	const id = "01KAM3H5Q8Z9YV7C2T4XW6B0RD"
	for _, id := range []string{id, "last", "nonsense"} {
		if code, body := ask(id); code != 404 {
			t.Errorf("%s of an empty journal: %d %s", id, code, body)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{id, "last"} {
		if code, body := ask(id); code != 500 || !strings.Contains(body, "reading the call journal") {
			t.Errorf("%s of a journal that is gone: %d %s", id, code, body)
		}
	}
}
