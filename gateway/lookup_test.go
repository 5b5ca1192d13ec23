package gateway_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/whytest"
)

// A recorded call is told to who knows its id: to strangers what a manual would say, to the application that made it what
// concerns it, and to nobody more.
func TestLookup(t *testing.T) {
	t.Parallel()
	up := whytest.Script(t, always("HTTP/1.1 403 Forbidden\r\nServer: WSGIServer\r\nContent-Type: text/html\r\nContent-Length: 98\r\n\r\nCSRF verification failed. Request aborted. This site requires a CSRF cookie when submitting forms."))
	bistroKey, bistroDoc := whytest.Consumer("bistro", "")
	marketKey, marketDoc := whytest.Consumer("market", "")
	documents := func(settings string) string {
		return whytest.GatewayDocument("wire", settings) + "---\n" + whytest.API(up.URL(), "/", "    - key-auth: {}\n    - access: {allow: {applications: [bistro]}}") + "---\n" + bistroDoc + "---\n" + marketDoc
	}
	n := whytest.Start(t, "wire", documents(""))
	bistro, market := "X-Api-Key: "+bistroKey, "X-Api-Key: "+marketKey
	look := func(id string, header ...string) (whytest.Answer, gateway.Lookup) {
		a := n.Call("GET", "/.well-known/whygate/calls/"+id, "", header...)
		var l gateway.Lookup
		if a.StatusCode == 200 {
			if err := json.Unmarshal([]byte(a.Body), &l); err != nil {
				t.Fatal(err, a.Body)
			}
		}
		return a, l
	}
	refused := n.Call("GET", "/secret-place?x=1", "", market)
	id := refused.Header.Get("Whygate-Call")
	if refused.StatusCode != 403 || n.Record(refused).Application != "market" {
		t.Fatalf("%d %s", refused.StatusCode, refused.Body)
	}
	for name, header := range map[string][]string{"stranger": nil, "another application": {bistro}, "unknown key": {"X-Api-Key: nothing"}} {
		a, l := look(id, header...)
		if a.StatusCode != 200 || l.Tier != "anonymous" || l.Told == nil || l.Told.Code != "access.not-allowed" || l.Status != 403 || l.RefusedBy != "gateway" || l.Application != "" || strings.Contains(a.Body, "secret-place") || strings.Contains(a.Body, "market") {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
		if rec := n.Record(a); rec.Outcome != calllog.Answered || rec.Status != 200 {
			t.Errorf("%s: the lookup is recorded as %v %d", name, rec.Outcome, rec.Status)
		}
	}
	own, l := look(id, market)
	if l.Tier != "caller" || l.Application != "market" || l.Path != "/secret-place" || l.Method != "GET" || l.Told.At != nil || l.Told.Hint != "" {
		t.Errorf("the caller is told %s", own.Body)
	}
	relayed := n.Call("GET", "/", "", bistro)
	n.Record(relayed)
	if a, l := look(relayed.Header.Get("Whygate-Call"), bistro); l.RefusedBy != "upstream" || l.Told != nil || l.Upstream == nil || l.Upstream.Product != "django" || l.Upstream.Cause != "csrf-cookie-missing" || l.Upstream.Title == "" {
		t.Errorf("of a relayed refusal the caller is told %s", a.Body)
	}
	if a, l := look(relayed.Header.Get("Whygate-Call")); l.Upstream != nil || l.RefusedBy != "upstream" {
		t.Errorf("of a relayed refusal a stranger is told %s", a.Body)
	}

	other := calllog.NewID(n.Record(refused).Start, ^n.Record(refused).ID.Node(), 1).String()
	gone := calllog.NewID(n.Record(refused).Start, n.Record(refused).ID.Node(), 1).String()
	for _, unknown := range []string{"x", strings.Repeat("7", 26), gone, other, strings.Repeat("A", 4000)} {
		if a, _ := look(unknown); a.StatusCode != 404 || a.Header.Get("Whygate-Reason") != "call.unknown" {
			t.Errorf("%.30s: %d %s", unknown, a.StatusCode, a.Header.Get("Whygate-Reason"))
		}
	}
	for _, elsewhere := range []string{"", "a/b"} {
		if a, _ := look(elsewhere, bistro); a.Header.Get("Whygate-Refused-By") != "upstream" {
			t.Errorf("calls/%s is no id, and is not left to the API: %d %v", elsewhere, a.StatusCode, a.Header)
		}
	}

	// The strictest disclosure switches it off; a stricter one tells the caller less.
	for settings, want := range map[string]string{"anonymous: anonymous, caller: anonymous, owner: anonymous": "off", "caller: anonymous": "anonymous", "anonymous: operator, caller: operator": "caller"} {
		if ps := n.Apply(documents("  disclosure: {" + settings + "}\n")); ps.HasErrors() {
			t.Fatal(ps)
		}
		a, l := look(id, market)
		if want == "off" && a.Header.Get("Whygate-Reason") != "call.unknown" || want != "off" && l.Tier != want {
			t.Errorf("%s: %d %s", settings, a.StatusCode, a.Body)
		}
	}
}

// Who looks up records all day is told to wait, and the calls of others go on.
func TestLookupsAreBounded(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.API(up.URL, "/", ""))
	first := n.Record(n.Call("GET", "/", ""))
	id := first.ID.String()
	busy := 0
	for i := 0; i < 5000 && busy == 0; i++ {
		if a := n.Call("GET", "/.well-known/whygate/calls/"+id, ""); a.StatusCode == 429 && a.Header.Get("Whygate-Reason") == "call.lookups" && a.Header.Get("Retry-After") == "1" {
			busy++
		} else if a.StatusCode != 200 {
			t.Fatal(a.StatusCode, a.Body)
		}
	}
	if busy == 0 {
		t.Error("five thousand lookups in a row were all made")
	}
	if a := n.Call("GET", "/", ""); a.StatusCode != 200 {
		t.Error(fmt.Sprint("another call is answered ", a.StatusCode))
	}
}

// Whoever is refused reads their own address; an id of a call, which is handed around, tells it to nobody else.
func TestLookupKeepsAddresses(t *testing.T) {
	t.Parallel()
	up := whytest.Upstream(t, func(http.ResponseWriter, *http.Request) {})
	n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  trustedProxies: [127.0.0.0/8]\n")+"---\n"+whytest.API(up.URL, "/", "    - ip-access: {allow: [192.0.2.0/24]}"))
	refused := n.Call("GET", "/", "", "X-Forwarded-For: 198.51.100.77")
	id := refused.Header.Get("Whygate-Call")
	if refused.StatusCode != 403 || !strings.Contains(refused.Body, "198.51.100.77") {
		t.Fatal(refused.StatusCode, refused.Body)
	}
	n.Record(refused)
	for from, told := range map[string]bool{"198.51.100.77": true, "198.51.100.78": false} {
		a := n.Call("GET", "/.well-known/whygate/calls/"+id, "", "X-Forwarded-For: "+from)
		if a.StatusCode != 200 || !strings.Contains(a.Body, "ip-access.") || strings.Contains(a.Body, "198.51.100.77") != told {
			t.Errorf("%s: %d %s", from, a.StatusCode, a.Body)
		}
	}
}

// Who has the ids of calls finds no others near them: an id opens a lookup. They were once a counter behind multiplications, which
// anybody can undo.
func TestIDsTellNothing(t *testing.T) {
	t.Parallel()
	n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", ""))
	inverse := func(a uint64) (x uint64) { // modulo 2^64, by Newton's method
		for x = a; a*x != 1; x *= 2 - a*x {
		}
		return x
	}
	var before uint64
	for i := range 5 {
		id, err := calllog.ParseID(n.Call("GET", "/.well-known/whygate/whoami", "").Header.Get("Whygate-Call"))
		if err != nil {
			t.Fatal(err)
		}
		u := binary.BigEndian.Uint64(id[8:]) * inverse(0xD6E8FEB86659FD93)
		u = (u ^ u>>32) * inverse(0x9E3779B97F4A7C15)
		if step := u ^ before; i > 0 && step < 1<<24 {
			t.Errorf("the id %v is %d steps from the one before", id, step)
		}
		before = u
	}
}
