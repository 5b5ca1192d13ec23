package nginx

import (
	"fmt"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// returned explains a `return`: the conditions before it, and the variables that they looked at, say
// what it is about.
func (w *walk) returned(d *directive, code int, conds []condition) []pinpoint.Clue {
	quiet := "nginx writes no line about it to error.log"
	base := pinpoint.Clue{
		Cause: "nginx-return-403", ID: "return", Weight: pinpoint.Certain, At: d.at, Quote: d.text(),
		Names: map[string]string{"directive": d.text(), "rule": d.text()},
	}
	level := "the server block"
	if w.loc.location().kind == "location" {
		level = w.loc.location().title()
	}
	if len(conds) == 0 {
		base.Says = fmt.Sprintf("`%s` in %s answers every request that comes to %s; %s", d.text(), where(d.at), level, quiet)
		base.Fix = []string{fmt.Sprintf("If this request belongs elsewhere, give it a location of its own; if the return is too wide, narrow %s (%s)", level, where(d.at))}
		first := []pinpoint.Clue{}
		if c, ok := w.shadowed(d); ok && code >= 400 {
			c.At, c.Quote = d.at, d.text()
			first = append(first, c)
			if c.Weight == pinpoint.Certain {
				base.Weight = pinpoint.Strong
			}
		}
		return append(first, base)
	}
	var written []string
	var deps []string
	at, quote := pinpoint.Place{}, ""
	for _, c := range conds {
		written = append(written, "`"+c.d.text()+"` ("+where(c.d.at)+")")
		for _, n := range c.v.deps {
			if !slices.Contains(deps, n) {
				deps = append(deps, n)
			}
		}
		if c.v.at.Line > 0 {
			at, quote = c.v.at, c.v.quote
		}
	}
	last := conds[len(conds)-1].d
	base.At, base.Quote = last.at, last.text()
	because := strings.Join(written, " and ")
	if at.Line > 0 {
		because += fmt.Sprintf(", by `%s` in %s", show(quote), where(at))
	}
	base.Names["rule"] = last.text()
	base.Says = fmt.Sprintf("%s holds, so `%s` in %s answers; %s", because, d.text(), where(d.at), quiet)
	base.Fix = []string{fmt.Sprintf("Correct the condition in %s so that it does not hold for this request", where(last.at))}
	if at.Line > 0 {
		base.Fix[0] = fmt.Sprintf("Correct the entry `%s` in %s so that it does not take this request in", show(quote), where(at))
	}
	cause, says, fix := w.meaning(deps, code, last)
	if cause == "" {
		return []pinpoint.Clue{base}
	}
	c := base
	c.Cause = cause
	c.Says = says + ": " + base.Says
	c.Names = map[string]string{"directive": d.text(), "rule": last.text(), "mechanism": "nginx-return-403"}
	if at.Line > 0 {
		c.At, c.Quote = at, quote
	}
	if fix != "" {
		c.Fix = append(c.Fix[:len(c.Fix):len(c.Fix)], fix)
	}
	for _, n := range deps {
		if f, ok := strings.CutPrefix(n, "http_"); ok {
			c.Names["field"] = strings.ReplaceAll(f, "_", "-")
		}
	}
	base.Weight = pinpoint.Strong
	return []pinpoint.Clue{c, base}
}

// meaning tells from the variables of a condition what it is about. More than one kind of variable
// leaves it open.
func (w *walk) meaning(deps []string, code int, by *directive) (cause, says, fix string) {
	for _, n := range deps {
		c, s, f := w.about(n, code, by)
		if c == "" {
			if n != "uri" && n != "request_uri" { // a path beside it only narrows the rule
				return "", "", ""
			}
			continue
		}
		if cause != "" && cause != c {
			return "", "", ""
		}
		cause, says, fix = c, s, f
	}
	return cause, says, fix
}

func (w *walk) about(name string, code int, by *directive) (cause, says, fix string) {
	switch name {
	case "http_user_agent":
		return "user-agent-blocked", fmt.Sprintf("the User-Agent %q is refused", show(w.header.Value("User-Agent"))), "Identify the client by an honest name of its own, and let the rule name only the clients that are meant"
	case "invalid_referer", "http_referer":
		says = fmt.Sprintf("the Referer %q is refused", show(w.header.Value("Referer")))
		if !w.header.Has("Referer") {
			says = "a request without Referer is refused"
		}
		fix = "Add the site to the condition if its pages may show this"
		if d := w.loc.last("valid_referers"); d != nil && name == "invalid_referer" {
			fix = fmt.Sprintf("Add the site to `%s` in %s if its pages may show this", d.text(), where(d.at))
			if !slices.Contains(d.args, "none") {
				fix += "; `none` lets requests without Referer in"
			}
		}
		return "hotlink-referer", says, fix
	case "request_method":
		return "method-denied-by-rule", fmt.Sprintf("the method %s is refused", w.mainMethod), fmt.Sprintf("Let the condition in %s except %s if this path needs it", where(by.at), w.mainMethod)
	case "remote_addr", "binary_remote_addr", "realip_remote_addr":
		if (w.client.IsLoopback() || w.client.IsPrivate()) && w.header.Has("X-Forwarded-For") && !w.realip {
			return "client-ip-lost-behind-proxy", fmt.Sprintf("the condition judges %s, which is a proxy", w.who()),
				fmt.Sprintf("In %s set `set_real_ip_from %s;` and `real_ip_header X-Forwarded-For;`, for your own proxies only", where(w.srv.d.at), w.client)
		}
		return "ip-denied", fmt.Sprintf("the address %s is refused", w.who()), ""
	case "scheme", "https", "http_x_forwarded_proto":
		if name == "http_x_forwarded_proto" || !w.a.TLS {
			return "https-required", "plain HTTP is refused", "Use https://; behind a balancer it must send X-Forwarded-Proto"
		}
	case "host", "http_host", "server_name":
		return "host-not-allowed", fmt.Sprintf("the Host %s is refused", show(w.rawHost)), "Ask by the name that the condition allows, or add this one"
	case "ssl_client_verify":
		if w.a.Cert == "expired" || w.a.Cert == "untrusted" {
			return "mtls-client-cert-invalid", "the client certificate is " + w.a.Cert, "Renew the certificate of the client, or complete its chain"
		}
		return "mtls-client-cert-missing", "no valid client certificate was sent", "Send a client certificate: `curl --cert client.pem --key client.key …`"
	case "secure_link", "secure_link_expires":
		return "nginx-secure-link", "the signature of the link does not fit, or it has expired", "Sign the link with the expression of secure_link_md5, and look at the clock"
	case "http_origin":
		return "cors-origin-not-allowed", fmt.Sprintf("the Origin %q is refused", show(w.header.Value("Origin"))), "Add the exact origin to the condition"
	case "content_type", "http_content_type":
		return "content-type-unsupported", fmt.Sprintf("the Content-Type %q is refused", show(w.header.Value("Content-Type"))), ""
	case "http_accept":
		return "accept-unacceptable", fmt.Sprintf("the Accept %q is refused", show(w.header.Value("Accept"))), ""
	case "http_authorization":
		if !w.header.Has("Authorization") {
			return "auth-missing", "the request has no Authorization", ""
		}
		return "auth-credentials-invalid", "the Authorization is refused", ""
	case "-file":
		if code == 503 {
			return "app-maintenance", "a file says that the site is under maintenance", "Remove the file when the maintenance is over"
		}
	}
	if strings.HasPrefix(name, "geoip") {
		return "geo-blocked", "the country of the client is refused", "The owner of the site decides about countries"
	}
	if f, ok := strings.CutPrefix(name, "http_"); ok && credential(f) {
		if f := strings.ReplaceAll(f, "_", "-"); !w.header.Has(f) {
			return "api-key-missing", "the request has no field " + f, ""
		}
		return "api-key-invalid", "the value of the field " + strings.ReplaceAll(f, "_", "-") + " is refused", ""
	}
	return "", "", ""
}
