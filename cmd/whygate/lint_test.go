package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whygate/whygate/whytest"
)

// A subscriber whom access leaves out is told, whichever list leaves them out, and also where all policies stand on one line.
func TestLintBarred(t *testing.T) {
	const consumers = "---\napiVersion: whygate/v1\nkind: Application\nmetadata: {name: shop}\nspec: {tenant: acme}\n---\napiVersion: whygate/v1\nkind: Plan\nmetadata: {name: p}\nspec: {}\n" +
		"---\napiVersion: whygate/v1\nkind: Subscription\nmetadata: {name: s}\nspec: {application: shop, api: api, plan: p, state: active}\n"
	for policies, barred := range map[string]bool{
		"    [key-auth, subscription, {access: {allow: {tenants: [other]}}}]":      true,
		"    [key-auth, subscription, {access: {allow: {tenants: [acme]}}}]":       false,
		"    [key-auth, subscription, {access: {allow: {applications: [other]}}}]": true,
		"    [key-auth, subscription, {access: {deny: {tenants: [acme]}}}]":        true,
		// Two in one line: the one that holds on the route counts.
		"    [key-auth, subscription, {access: {allow: {applications: [other]}}}]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [acme]}}}]}]":                                                                                             false,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [nobody]}}}]}]":                                                                        true,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [acme]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}]}]":                                                                          false,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}, {access: {allow: {tenants: [acme]}}, name: watched, shadow: true}]}]":      true,
		"    [key-auth, subscription]\n  routes: [{path: /a, policies: [{access: {allow: {tenants: [other]}}}]}, {path: /b, policies: [{access: {allow: {tenants: [other]}}}, {access: {allow: {subjects: [somebody]}}, name: watched, shadow: true}]}]": true,
	} {
		file := filepath.Join(t.TempDir(), "docs.yaml")
		if err := os.WriteFile(file, []byte(whytest.API("http://127.0.0.1:1", "/", policies)+consumers), 0o600); err != nil {
			t.Fatal(err)
		}
		snap, _, problems := compileOffline([]string{file})
		if snap == nil {
			t.Fatalf("%s\n%v", policies, problems)
		}
		found := false
		for _, p := range lint(snap, problems) {
			found = found || p.Code == "subscription.barred"
		}
		if found != barred {
			t.Errorf("%s: barred %v", strings.TrimSpace(policies), found)
		}
	}
}
