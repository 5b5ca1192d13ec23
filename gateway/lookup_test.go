package gateway_test

import (
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
