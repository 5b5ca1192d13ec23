package gateway

import (
	"bytes"
	"strings"

	"github.com/whygate/whygate/wire"
)

// Refuser is who seems to have written an upstream's refusal, and what says so.
type Refuser struct {
	Product  string   `json:"product"` // "nginx", "flask", "unknown"
	Evidence []string `json:"evidence"`
}

// marks of who wrote an error page, the most specific first. Bodies weigh more than banners: any
// later hop may rewrite Server.
var marks = []struct{ product, body string }{
	{"nginx", "<hr><center>nginx"},
	{"openresty", "<hr><center>openresty"},
	{"apache", "<address>Apache"},
	{"haproxy", "Request forbidden by administrative rules"},
	{"kong", `"message":"no Route matched with those values"`},
	{"envoy", "RBAC: access denied"},
	{"envoy", "upstream connect error or disconnect/reset before headers"},
	{"envoy", "no healthy upstream"},
	{"werkzeug", "<title>403 Forbidden</title>\n<h1>Forbidden</h1>"},
	{"werkzeug", "<!doctype html>\n<html lang=en>\n<title>"},
	{"django", "<title>403 Forbidden</title>\n"},
	{"django", "CSRF verification failed"},
	{"spring", `"timestamp":"`},
	{"express", "<pre>Cannot "},
	{"rails", "The page you were looking for doesn't exist"},
	{"laravel", "Page Expired"},
	{"tomcat", "<h3>Apache Tomcat"},
	{"jetty", "Powered by Jetty"},
	{"iis", "<title>IIS "},
	{"cloudflare", "cf-error-details"},
	{"aws-waf", "<title>ERROR: The request could not be satisfied</title>"},
	{"google", "https://www.google.com/images/errors/"},
	{"fastapi", `{"detail":`},
	{"go", "404 page not found\n"},
	{"varnish", "<title>503 Backend fetch failed</title>"},
	{"modsecurity", "Mod_Security"},
}

// banners name a product in the field Server or X-Powered-By.
var banners = []struct{ product, text string }{
	{"cloudflare", "cloudflare"}, {"nginx", "nginx"}, {"openresty", "openresty"}, {"apache", "apache"}, {"iis", "microsoft-iis"}, {"haproxy", "haproxy"},
	{"envoy", "envoy"}, {"envoy", "istio-envoy"}, {"caddy", "caddy"}, {"lighttpd", "lighttpd"}, {"werkzeug", "werkzeug"}, {"gunicorn", "gunicorn"},
	{"uvicorn", "uvicorn"}, {"jetty", "jetty"}, {"tomcat", "apache-coyote"}, {"kestrel", "kestrel"}, {"express", "express"}, {"php", "php/"},
	{"aws-elb", "awselb"}, {"aws-s3", "amazons3"}, {"cloudfront", "cloudfront"}, {"google", "gws"}, {"akamai", "akamaighost"}, {"litespeed", "litespeed"}, {"kong", "kong"}, {"whygate", "whygate"},
}

const maxEvidence = 2048 // bytes of the body that are looked at

// attribute finds out who seems to have refused a call behind the gateway.
func (c *call) attribute(res *wire.Response, body []byte) {
	r := &Refuser{Product: "unknown"}
	say := func(product, evidence string) {
		if r.Product == "unknown" {
			r.Product = product
		}
		r.Evidence = append(r.Evidence, evidence)
	}
	if by, ok := res.Fields.Lookup("Whygate-Refused-By"); ok {
		say("whygate", "Whygate-Refused-By: "+strings.Clone(by))
	}
	body = body[:min(len(body), maxEvidence)]
	for _, m := range marks {
		if bytes.Contains(body, []byte(m.body)) {
			say(m.product, "the body contains "+strings.TrimSpace(m.body))
			break
		}
	}
	for _, name := range []string{"Server", "X-Powered-By", "Via"} {
		v, ok := res.Fields.Lookup(name)
		if !ok {
			continue
		}
		low := strings.ToLower(v)
		product := "unknown"
		for _, b := range banners {
			if strings.Contains(low, b.text) {
				product = b.product
				break
			}
		}
		say(product, name+": "+shortText(v))
	}
	for _, f := range res.Fields {
		switch {
		case hasPrefixFold(f.Name, "cf-ray"):
			say("cloudflare", "CF-Ray")
		case hasPrefixFold(f.Name, "x-amzn-errortype"):
			say("aws-apigateway", "x-amzn-ErrorType: "+shortText(f.Value))
		case hasPrefixFold(f.Name, "x-kong-"):
			say("kong", strings.Clone(f.Name))
		case hasPrefixFold(f.Name, "x-envoy-"):
			say("envoy", strings.Clone(f.Name))
		}
	}
	if len(r.Evidence) == 0 {
		r.Evidence = []string{"the answer carries no mark of a product"}
	}
	c.detail.Refuser = r
	c.rec.Reason = "upstream:" + r.Product
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && wire.EqualFold(s[:len(prefix)], prefix)
}

func shortText(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return strings.Clone(s)
}
