//go:build linux

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

// An entry is one way to get a call from the load generator to the origin. A new
// one needs a row here and, if it reads a configuration, a template in testdata/.
type entry struct {
	name    string
	title   string
	program string // what it runs, as findPrograms knows it; "" is this binary
	config  string // template in testdata/; "" for none
	// command is what is run, without the program.
	command func(site) []string
	// keyed entries refuse calls without the key; the harness checks that they do.
	keyed bool
	// policy is the row of the case policies that it runs with; nil elsewhere.
	policy *policyRow
	// label names its command in the report; "" is the name.
	label string
}

const (
	baseline    = "nginx"        // what ratios are taken of
	whygateFull = "whygate-full" // what goals are about
	direct      = "direct"       // no proxy at all: what generator and origin can do
)

var entries = []entry{
	{name: direct, title: "origin, no proxy"},
	{name: baseline, title: "nginx proxy_pass", program: "nginx", config: "nginx-bare.conf", command: nginxCommand},
	{name: "nginx-full", title: "nginx map, limit_req, JSON log", program: "nginx", config: "nginx-full.conf", command: nginxCommand, keyed: true},
	{name: "haproxy", title: "HAProxy", program: "haproxy", config: "haproxy.cfg", command: func(s site) []string {
		return []string{"-db", "-f", s.Config}
	}},
	{name: "reverse-proxy", title: "Go httputil.ReverseProxy", command: func(s site) []string {
		return []string{"reverse-proxy", "-listen", s.Listen, "-origin", s.Origin}
	}},
	{name: "whygate", title: "Whygate", program: "whygate", config: "whygate-bare.yaml", command: whygateCommand},
	{name: whygateFull, title: "Whygate key, subscription, limit, records, metrics", program: "whygate", config: "whygate-full.yaml", command: whygateCommand, keyed: true},
}

func nginxCommand(s site) []string {
	return []string{"-p", s.Dir, "-c", s.Config, "-e", filepath.Join(s.Dir, "error.log"), "-g", "daemon off;"}
}

func whygateCommand(s site) []string {
	return []string{"serve", s.Config, "--listen", s.Listen, "--admin", s.Admin, "--data", filepath.Join(s.Dir, "data")}
}

func entryNames() []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names
}

// find returns the entry of that name, which choose has seen before.
func find(name string) entry {
	for _, e := range entries {
		if e.name == name {
			return e
		}
	}
	panic("BUG: no entry is called " + name)
}

// body is the origin's answer to small calls: 176 bytes.
const body = `{"id":"8f3c2a71-5d0e-4b6a-9c1f-27e4d8b05a63","state":"shipped","customer":"acme","currency":"EUR","total":"129.90","items":3,"placed":"2026-11-22T09:40:00Z","carrier":"parcel"}`

// A site is where and with what an entry runs: the data of the templates.
type site struct {
	Dir    string // its own folder
	Config string // its rendered configuration, in Dir
	Listen string // host:port it serves
	Admin  string // host:port of its admin API, if it has one
	Origin string // host:port it forwards to
	User   string // the user nginx's workers shall run as; "" without root, where nginx cannot choose
	Slots  int    // client connections and upstream connections, with some to spare
	Body   string
	// Policies are those of a row of the case policies, each an entry of YAML; ORIGIN stands for that address.
	Policies []string
	Module   string // of nginx, in the case waf
	Rules    string // folder of the rule set, in the case waf
	key
	callers
}

// Entries are the policies, with the address of the origin where they ask it.
func (s site) Entries() []string {
	var list []string
	for _, p := range s.Policies {
		list = append(list, strings.ReplaceAll(p, "ORIGIN", s.Origin))
	}
	return list
}

// key is the API key of one run. It is made anew each time and stored nowhere else.
type key struct {
	Key       string
	KeyPrefix string
	KeySHA256 string
}

func newKey() key {
	random := make([]byte, 24)
	rand.Read(random)
	k := "wg_" + hex.EncodeToString(random)
	sum := sha256.Sum256([]byte(k))
	return key{Key: k, KeyPrefix: k[:11], KeySHA256: hex.EncodeToString(sum[:])}
}

//go:embed testdata/*.conf testdata/*.cfg testdata/*.yaml testdata/*.lua
var files embed.FS

// render writes a configuration into the site's folder.
func render(s site) error {
	t, err := template.ParseFS(files, "testdata/"+filepath.Base(s.Config))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.Config, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := t.Execute(f, s); err != nil {
		f.Close()
		return fmt.Errorf("rendering %s: %w", s.Config, err)
	}
	return f.Close()
}

// nginxUser is the user that nginx's workers keep when started by root. Without
// root, nginx warns about the directive, so it is left out.
func nginxUser() string {
	if os.Getuid() == 0 {
		return "root"
	}
	return ""
}

// commandLine is what a person would type, the key left out.
func commandLine(k key, argv []string) string {
	line := ""
	for i, arg := range argv {
		if i > 0 {
			line += " "
		}
		if arg == "X-Api-Key: "+k.Key {
			arg = "X-Api-Key: " + k.KeyPrefix + "…"
		}
		if arg == "" || needsQuotes(arg) {
			arg = strconv.Quote(arg)
		}
		line += arg
	}
	return line
}

func needsQuotes(arg string) bool {
	for _, c := range arg {
		if c == ' ' || c == ';' || c == '"' || c == '*' {
			return true
		}
	}
	return false
}
