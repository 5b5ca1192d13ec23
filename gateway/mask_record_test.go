package gateway_test

import (
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// What the explanation of a rule saw in a field that mask hides by name is not recorded, nor told.
func TestMaskHidesWhatRulesSaw(t *testing.T) {
	t.Parallel()
	const number = "pelican-0199"
	for _, mask := range []string{"{fields: [phone]}", "{paths: [customer.phone]}", "{fields: [Customer]}"} {
		n := whytest.Start(t, "wire", whytest.GatewayDocument("wire", "  disclosure: {anonymous: operator}\n")+"---\n"+whytest.API("http://127.0.0.1:1", "/", "  - mask: "+mask+"\n  - rule: {rules: [{name: a, effect: allow, when: 'body.customer.phone == \"wanted-0100\" && body.customer.name == \"me\"'}]}"))
		a := n.Call("POST", "/", `{"customer": {"phone": "`+number+`", "name": "you"}}`, "Content-Type: application/json")
		if a.Header.Get("Whygate-Reason") != "rule.no-match" {
			t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.Body)
		}
		for _, secret := range []string{number, "wanted-0100"} {
			if strings.Contains(a.Body, secret) {
				t.Errorf("mask %s: the answer tells %s: %s", mask, secret, a.Body)
			}
			if rec := n.Record(a); strings.Contains(string(rec.Detail), secret) {
				t.Errorf("mask %s: the record holds %s: %s", mask, secret, rec.Detail)
			}
		}
	}
}
