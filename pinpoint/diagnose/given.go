package diagnose

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
	"github.com/whygate/whygate/pinpoint/apache"
	"github.com/whygate/whygate/pinpoint/machine"
	"github.com/whygate/whygate/pinpoint/nginx"
	"github.com/whygate/whygate/pinpoint/servers"
)

// Given is the configuration of a server that somebody hands in: a copy of another machine's, or one of a server that does
// not run. The files of one server belong together; several servers stand in the order in which a request meets them.
type Given struct {
	Product string
	Files   []string // absolute
}

// maxGiven bounds the files that are handed in.
const maxGiven = 64

// products are the servers whose configuration can be handed in, by the names that people use.
var products = map[string]string{"nginx": "nginx", "openresty": "nginx", "apache": "apache-httpd", "apache2": "apache-httpd", "httpd": "apache-httpd", "apache-httpd": "apache-httpd",
	"haproxy": "haproxy", "lighttpd": "lighttpd", "caddy": "caddy", "iis": "iis"}

// fileNames tell the product of a file that has its usual name.
var fileNames = map[string]string{"nginx.conf": "nginx", "httpd.conf": "apache-httpd", "apache2.conf": "apache-httpd", "haproxy.cfg": "haproxy", "lighttpd.conf": "lighttpd",
	"caddyfile": "caddy", "caddy.json": "caddy", "web.config": "iis", "applicationhost.config": "iis"}

// ParseGiven reads "PRODUCT=FILE" or the name of a file that is usual for its product. Files of one product that follow one
// another are of one server.
func ParseGiven(texts []string) (list []Given, err error) {
	if len(texts) > maxGiven {
		return nil, fmt.Errorf("more than %d configurations", maxGiven)
	}
	for _, text := range texts {
		name, file, ok := strings.Cut(text, "=")
		product := products[strings.ToLower(name)]
		switch {
		case ok && product == "" && !strings.Contains(name, "/"):
			return nil, fmt.Errorf("%q is no server whose configuration is read: nginx, apache, haproxy, lighttpd, caddy or iis", name)
		case !ok || product == "":
			file = text
			if product = fileNames[strings.ToLower(filepath.Base(file))]; product == "" {
				return nil, fmt.Errorf("the name of %s does not tell whose configuration it is: write nginx=%s, or apache=, haproxy=, lighttpd=, caddy=, iis=", filepath.Base(file), file)
			}
		}
		if file == "" {
			return nil, fmt.Errorf("%s= names no file", name)
		}
		full, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("the path of %s: %w", file, err)
		}
		full = filepath.ToSlash(full)
		if n := len(list); n > 0 && list[n-1].Product == product && (product == "iis" || product == "haproxy") {
			list[n-1].Files = append(list[n-1].Files, full)
			continue
		}
		list = append(list, Given{product, []string{full}})
	}
	return list, nil
}

// loadGiven reads one of them. Permissions, logs and processes are not of that machine, so they are left out.
func (d *diagnosis) loadGiven(m *machine.Machine, g Given) (machine.Decider, error) {
	for _, name := range g.Files {
		if _, err := m.ReadFile(name); err != nil { // readers take a missing file for an empty one
			return nil, err
		}
	}
	file := g.Files[0]
	env := servers.Env{Vault: d.c.Vault}
	// A reader that returns nothing and an error could not begin; with something, the rest is a step of its trail.
	given := func(c machine.Decider, isNil bool, err error) (machine.Decider, error) {
		if isNil {
			return nil, cmp.Or(err, fmt.Errorf("nothing in it is a configuration"))
		}
		return c, nil
	}
	switch g.Product {
	case "nginx":
		c, err := nginx.Load(m, file, path.Dir(file))
		return given(c, c == nil, err)
	case "apache-httpd":
		c, err := apache.Load(m, file, apache.Env{Root: path.Dir(file), Vault: d.c.Vault})
		return given(c, c == nil, err)
	case "haproxy":
		c, err := servers.LoadHAProxy(m, g.Files, env)
		return given(c, c == nil, err)
	case "lighttpd":
		c, err := servers.LoadLighttpd(m, file, env)
		return given(c, c == nil, err)
	case "caddy":
		load := servers.LoadCaddyfile
		if strings.HasSuffix(file, ".json") {
			load = servers.LoadCaddy
		}
		c, err := load(m, file, env)
		return given(c, c == nil, err)
	case "iis":
		c, err := servers.LoadIIS(m, g.Files, env)
		return given(c, c == nil, err)
	}
	return nil, fmt.Errorf("no reader for %s", g.Product)
}

// ofFiles are causes that lie in the files of the server, which a configuration alone does not show.
func ofFiles(cause string) bool {
	k, ok := pinpoint.CauseByID(cause)
	return ok && (k.Layer == "files" || cause == "no-index-listing-off" || cause == "wrong-path" || cause == "nginx-try-files-masks-permission")
}

// given evaluates the configurations that were handed in, for the request, one behind the other.
func (d *diagnosis) given() {
	x := d.c.Exchange()
	if len(d.o.Given) == 0 || x == nil || x.Request == nil || d.wasGiven {
		return
	}
	d.wasGiven = true
	m := &machine.Machine{}
	a, ok := d.arrival(x)
	if !ok {
		return
	}
	report := machine.Report{}
	for i, g := range d.o.Given {
		n := i + 1
		name := path.Base(g.Files[0])
		say := func(format string, args ...any) {
			report.Trail = append(report.Trail, pinpoint.Step{Says: fmt.Sprintf("configuration %d: ", n) + fmt.Sprintf(format, args...), At: pinpoint.Place{File: g.Files[0]}})
		}
		c, err := d.loadGiven(m, g)
		if err != nil {
			d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "configuration", Says: fmt.Sprintf("The configuration %s could not be read: %s.", pinpoint.SafeText(name, 120), strings.TrimSuffix(pinpoint.SafeText(err.Error(), 200), "."))})
			break
		}
		decision := c.Decide(a)
		if nothing(decision) && i == 0 && a.TLS && a.Local.Port() == 443 {
			// A server behind the end of TLS, or an input that does not say whether there was any.
			plain := a
			plain.TLS, plain.SNI, plain.Cert, plain.Local = false, "", "", netip.AddrPortFrom(a.Local.Addr(), 80)
			if again := c.Decide(plain); !nothing(again) {
				a, decision = plain, again
				say("nothing there listens on port 443, so port 80 is looked at")
			}
		}
		if nothing(decision) {
			d.c.Gaps = append(d.c.Gaps, pinpoint.Gap{Kind: "configuration", Says: fmt.Sprintf("Nothing in %s answers on port %d, where %s. Give the URL with the port that this server listens on.", pinpoint.SafeText(name, 120), a.Local.Port(), map[bool]string{true: "the request goes", false: "the server before hands the request on"}[i == 0])})
		}
		for _, s := range decision.Trail {
			s.Says = fmt.Sprintf("configuration %d: %s", n, s.Says)
			report.Trail = append(report.Trail, s)
		}
		clues := slices.DeleteFunc(slices.Clone(decision.Clues), func(c pinpoint.Clue) bool { return ofFiles(c.Cause) })
		if len(clues) < len(decision.Clues) {
			say("what depends on files of the server is left out: only its configuration was handed in")
		}
		agrees := a.Status == 0 || decision.Status == 0 || decision.Status == a.Status
		if !agrees && len(clues) > 0 {
			say("by it the answer would be %d, and it was %d", decision.Status, a.Status)
		}
		for k := range clues {
			if clues[k].Hop = n; clues[k].Refuser == "" && clues[k].Cause != "" {
				clues[k].Refuser = g.Product
			}
			if !agrees {
				clues[k].Weight = min(clues[k].Weight, pinpoint.Hint)
			}
		}
		report.Clues = append(report.Clues, clues...)
		report.Hops = append(report.Hops, machine.Hop{N: n, At: name, Product: g.Product, Arrival: a, Decision: decision})
		next := slices.IndexFunc(decision.Next, func(a pinpoint.Arrival) bool { return a.Why == "" })
		if decision.Status >= 400 && len(clues) > 0 {
			break
		}
		if i+1 == len(d.o.Given) {
			break
		}
		if next < 0 {
			say("it hands the request on to nobody, so that the configurations behind it are not asked")
			break
		}
		if a = decision.Next[next]; a.Client.IsUnspecified() { // the address of the server before is not known
			a.Client = netip.Addr{}
		}
	}
	d.clues = append(d.clues, report.Clues...)
	if d.out.Machine == nil {
		d.out.Machine = &report
	}
}

// nothing says that no server of a configuration took the request.
func nothing(d pinpoint.Decision) bool {
	return d.Status == 0 && len(d.Clues) == 0 && len(d.Next) == 0 && len(d.Files) == 0
}

// arrival is the request as the first server receives it, as far as the case tells.
func (d *diagnosis) arrival(x *pinpoint.Exchange) (a pinpoint.Arrival, ok bool) {
	u, err := x.Request.Parsed()
	if err != nil || u.Host == "" {
		return a, false
	}
	port := uint64(80)
	if u.Scheme == "https" {
		port = 443
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && n > 0 {
		port = n
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		addr = netip.IPv4Unspecified()
	}
	a = pinpoint.Arrival{Request: x.Request, Local: netip.AddrPortFrom(addr.Unmap(), uint16(port)), TLS: u.Scheme == "https", At: x.At}
	if a.TLS {
		a.SNI = cmp.Or(x.Request.Via.SNI, u.Hostname())
		if x.Request.Via.Cert == "" {
			a.Cert = "none"
		}
	}
	if a.At.IsZero() {
		a.At = d.o.Now()
	}
	if from, err := netip.ParseAddr(x.Request.Via.From); err == nil {
		a.Client = from.Unmap()
	}
	if l := d.c.Line; l != nil {
		if from, err := netip.ParseAddr(l.Client); err == nil {
			a.Client = from.Unmap()
		}
		a.Status = l.Status
	}
	if x.Answer != nil {
		a.Status = x.Answer.Status
	}
	return a, true
}
