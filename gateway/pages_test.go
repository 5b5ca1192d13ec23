package gateway

import (
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/whygate/whygate/reason"
)

// TestPagesStandAlone: the page of each reason, and the two others, are whole documents that load nothing, run
// nothing, and have a title, one heading and text of ours in which nothing was taken for markup.
func TestPagesStandAlone(t *testing.T) {
	written := map[string]string{}
	for _, r := range reason.All() {
		written[r.Code] = string(page("reason", About(r)))
	}
	const strange = `"><b onclick=x>&`
	written["refusal"] = string(page("refusal", struct {
		reason.Told
		Call, Page string
	}{reason.Told{Code: "key.missing", Status: 401, Title: "No key", Says: strange, Wanted: strange, Seen: strange, Hint: strange,
		At: &reason.Source{File: "a.yaml", Line: 3}, Fixes: []reason.Fix{{By: reason.Caller, Text: strange}}}, "01KAM3H5Q8Z9YV7C2T4XW6B0RD", "/.well-known/whygate/reasons/key.missing"}))
	written["whoami"] = string(page("whoami", identity{Address: "203.0.113.7", Host: strange, Hops: []reason.Hop{{Address: strange, From: "socket", Chosen: true}}}))
	for name, text := range written {
		doc, err := html.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(name, err)
		}
		count := map[string]int{}
		for n := range doc.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			count[n.Data]++
			for _, a := range n.Attr {
				if a.Key == "src" || a.Key == "style" || strings.HasPrefix(a.Key, "on") || a.Key == "href" && !strings.HasPrefix(a.Val, "/") {
					t.Errorf("%s: <%s %s=%q>", name, n.Data, a.Key, a.Val)
				}
			}
		}
		if !strings.HasPrefix(text, "<!doctype html>") || count["title"] != 1 || count["h1"] != 1 || count["script"]+count["link"]+count["b"] > 0 || strings.Contains(text, "ZgotmplZ") {
			t.Errorf("%s: %v\n%s", name, count, text)
		}
	}
	if n := strings.Count(written["refusal"], html.EscapeString(strange)); n != 5 {
		t.Errorf("the refusal shows %d of 5 texts:\n%s", n, written["refusal"])
	}
}
