package diagnose

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseGiven(t *testing.T) {
	abs := func(name string) string {
		full, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		return full
	}
	for _, tt := range []struct {
		in   []string
		want []Given
		says string
	}{
		{in: []string{"web.config"}, want: []Given{{"iis", []string{abs("web.config")}}}},
		{in: []string{"ApplicationHost.config", "site/web.config"}, want: []Given{{"iis", []string{abs("ApplicationHost.config"), abs("site/web.config")}}}},
		{in: []string{"haproxy.cfg", "Nginx=/etc/shop.conf"}, want: []Given{{"haproxy", []string{abs("haproxy.cfg")}}, {"nginx", []string{"/etc/shop.conf"}}}},
		{in: []string{"nginx=a.conf", "nginx=b.conf"}, want: []Given{{"nginx", []string{abs("a.conf")}}, {"nginx", []string{abs("b.conf")}}}}, // two servers
		{in: []string{"/srv/a=b/Caddyfile"}, want: []Given{{"caddy", []string{"/srv/a=b/Caddyfile"}}}},
		{in: []string{"shop.conf"}, says: "nginx=shop.conf"},
		{in: []string{"traefik=a.yaml"}, says: "no server whose configuration is read"},
		{in: []string{"nginx="}, says: "names no file"},
		{in: make([]string, maxGiven+1), says: "more than"},
	} {
		got, err := ParseGiven(tt.in)
		if tt.says != "" {
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%q: %v, want an error with %q", tt.in, err, tt.says)
			}
			continue
		}
		if d := cmp.Diff(tt.want, got); err != nil || d != "" {
			t.Errorf("%q: %v\n%s", tt.in, err, d)
		}
	}
}
