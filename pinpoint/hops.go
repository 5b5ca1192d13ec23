package pinpoint

import (
	"fmt"
	"slices"
	"strings"
)

// hopKinds are the kinds of hops in the order in which a request usually meets them.
var hopKinds = []string{"client", "cdn", "waf", "balancer", "gateway", "web-server", "application", "storage"}

// hopMark is a field that shows that an answer passed a product. Sources: the vendors' lists of response fields.
type hopMark struct {
	field, text   string // text must occur in the value, in lower case; "" is any
	kind, product string
}

var hopMarks = []hopMark{
	{"CF-Ray", "", "cdn", "cloudflare"}, {"Server", "cloudflare", "cdn", "cloudflare"},
	{"X-Amz-Cf-Id", "", "cdn", "cloudfront"}, {"X-Amz-Cf-Pop", "", "cdn", "cloudfront"}, {"Via", "cloudfront", "cdn", "cloudfront"}, {"Server", "cloudfront", "cdn", "cloudfront"},
	{"X-Fastly-Request-Id", "", "cdn", "fastly"}, {"X-Served-By", "cache-", "cdn", "fastly"}, {"Fastly-Restarts", "", "cdn", "fastly"},
	{"Akamai-Grn", "", "cdn", "akamai"}, {"Server", "akamai", "cdn", "akamai"}, {"X-Akamai-Request-Id", "", "cdn", "akamai"}, {"Akamai-Cache-Status", "", "cdn", "akamai"},
	{"X-Azure-Ref", "", "cdn", "azure-front-door"}, {"X-Vercel-Id", "", "cdn", "vercel"}, {"X-Nf-Request-Id", "", "cdn", "netlify"}, {"Server", "bunnycdn", "cdn", "bunny"},
	{"X-Cdn", "imperva", "waf", "imperva"}, {"X-Cdn", "incapsula", "waf", "imperva"}, {"X-Iinfo", "", "waf", "imperva"}, {"X-Sucuri-Id", "", "waf", "sucuri"},
	{"X-Amzn-Waf-Action", "", "waf", "aws-waf"}, {"X-Datadome", "", "waf", "datadome"}, {"Server", "ddos-guard", "waf", "ddos-guard"},
	{"Server", "awselb", "balancer", "aws-elb"}, {"Server", "haproxy", "balancer", "haproxy"}, {"Server", "google frontend", "balancer", "google-frontend"},
	{"Server", "bigip", "balancer", "f5-big-ip"}, {"X-Varnish", "", "balancer", "varnish"}, {"Via", "varnish", "balancer", "varnish"}, {"Via", "1.1 google", "balancer", "google-frontend"},
	{"Server", "istio-envoy", "gateway", "envoy"}, {"Server", "envoy", "gateway", "envoy"}, {"X-Envoy-Upstream-Service-Time", "", "gateway", "envoy"},
	{"X-Kong-Response-Latency", "", "gateway", "kong"}, {"X-Kong-Upstream-Latency", "", "gateway", "kong"}, {"X-Kong-Proxy-Latency", "", "gateway", "kong"}, {"Via", "kong", "gateway", "kong"}, {"Server", "kong", "gateway", "kong"},
	{"X-Apisix-Upstream-Status", "", "gateway", "apisix"}, {"Server", "apisix", "gateway", "apisix"}, {"X-Amz-Apigw-Id", "", "gateway", "aws-api-gateway"}, {"Apigw-Requestid", "", "gateway", "aws-api-gateway"}, {"X-Amzn-Errortype", "", "gateway", "aws-api-gateway"},
	{"Whygate-Call", "", "gateway", "whygate"}, {"X-Tyk-Trace-Id", "", "gateway", "tyk"}, {"Server", "traefik", "gateway", "traefik"},
	{"Server", "nginx", "web-server", "nginx"}, {"Server", "openresty", "web-server", "nginx"}, {"Server", "apache", "web-server", "apache-httpd"}, {"Server", "microsoft-iis", "web-server", "iis"}, {"Server", "microsoft-httpapi", "web-server", "http-sys"},
	{"Server", "lighttpd", "web-server", "lighttpd"}, {"Server", "caddy", "web-server", "caddy"}, {"Via", "caddy", "web-server", "caddy"}, {"Server", "litespeed", "web-server", "litespeed"},
	{"X-Powered-By", "express", "application", "express"}, {"X-Powered-By", "php", "application", "php"}, {"X-Powered-By", "asp.net", "application", "aspnet"}, {"X-Powered-By", "next.js", "application", "nextjs"},
	{"X-Aspnet-Version", "", "application", "aspnet"}, {"Server", "kestrel", "application", "aspnet-core"}, {"Server", "gunicorn", "application", "gunicorn"}, {"Server", "uvicorn", "application", "uvicorn"},
	{"Server", "werkzeug", "application", "flask"}, {"Server", "coyote", "application", "tomcat"}, {"Server", "jetty", "application", "jetty"}, {"X-Runtime", "", "application", "rails"},
	{"Server", "amazons3", "storage", "s3-compatible-store"}, {"Server", "windows-azure-blob", "storage", "azure-storage"}, {"X-Ms-Error-Code", "", "storage", "azure-storage"}, {"X-Guploader-Uploadid", "", "storage", "gcs"}, {"X-Goog-Hash", "", "storage", "gcs"}, {"Server", "minio", "storage", "s3-compatible-store"},
}

// Hops is the chain from the client to the server that answered, as far as the answer shows it. Fields
// may be rewritten by any hop in front, so that a chain is a lower bound. Its index is Clue.Hop.
func Hops(c *Case) []Hop {
	hops, _ := hopsOf(c)
	return hops
}

// passing says what an answer shows about one hop: that it refused, or handed a refusal on.
type passing struct {
	product string
	refused bool
	weight  float64
	field   string // of the answer that shows it
	says    string
}

func hopsOf(c *Case) ([]Hop, []passing) {
	hops := []Hop{{Kind: "client", Says: "you"}}
	if c == nil {
		return hops, nil
	}
	ans := &Answer{}
	if ex := c.Exchange(); ex != nil && ex.Answer != nil {
		ans = ex.Answer
	}
	type found struct {
		Hop
		rank int
	}
	var chain []found
	has := func(product string) bool {
		return slices.ContainsFunc(chain, func(f found) bool { return f.Product == product })
	}
	rank := func(kind string) int { return slices.Index(hopKinds, kind) }
	if ans.Header.Has("X-Squid-Error") || strings.Contains(strings.ToLower(ans.Header.Value("X-Cache")), "squid") || ans.Status == 407 {
		product := ""
		if ans.Header.Has("X-Squid-Error") || strings.Contains(strings.ToLower(ans.Header.Value("Via")+ans.Header.Value("Server")), "squid") {
			product = "squid"
		}
		chain = append(chain, found{Hop{Kind: "gateway", Product: product, Says: "a proxy on the client's side"}, 0})
	}
	// Each proxy adds itself behind those nearer to the origin (RFC 9110 §7.6.3).
	var via []string
	for _, v := range ans.Header.Values("Via") {
		if len(v) <= 4096 && len(via) < 32 {
			via = append(via, strings.Split(v, ",")...)
		}
	}
	for _, entry := range slices.Backward(via[:min(len(via), 32)]) {
		for _, m := range hopMarks {
			if m.field == "Via" && strings.Contains(strings.ToLower(entry), m.text) {
				n := rank(m.kind)
				if len(chain) > 0 {
					n = max(n, chain[len(chain)-1].rank)
				}
				product := m.product
				if product == "varnish" && ans.Header.Has("X-Served-By") && strings.Contains(ans.Header.Value("X-Served-By"), "cache-") {
					product, n = "fastly", max(1, n)
					m.kind = "cdn"
				}
				if !has(product) {
					chain = append(chain, found{Hop{Kind: m.kind, Product: product, Says: "Via: " + plainText(strings.TrimSpace(entry), 60)}, n})
				}
				break
			}
		}
	}
	for _, m := range hopMarks {
		if m.field == "Via" || has(m.product) {
			continue
		}
		for i, v := range ans.Header.Values(m.field) {
			if i < 8 && len(v) <= 4096 && strings.Contains(strings.ToLower(v), m.text) {
				if m.product == "varnish" && has("fastly") || m.product == "nginx" && has("apisix") {
					break
				}
				chain = append(chain, found{Hop{Kind: m.kind, Product: m.product, Says: plainText(m.field+": "+v, 60)}, rank(m.kind)})
				break
			}
		}
	}
	if l := c.Line; l != nil {
		if kind, product := lineProduct(l.Format); product != "" && !has(product) {
			chain = append(chain, found{Hop{Kind: kind, Product: product, Says: "the line is of its access log"}, rank(kind)})
		}
	}
	slices.SortStableFunc(chain, func(a, b found) int { return a.rank - b.rank })
	for _, f := range chain {
		hops = append(hops, f.Hop)
	}
	who := passingOf(c, ans)
	for _, p := range who {
		i := slices.IndexFunc(hops, func(h Hop) bool { return h.Product == p.product })
		if i < 0 {
			continue
		}
		if p.refused {
			hops[i].Refused = true
			hops[i].Says = p.says
		} else if i == len(hops)-1 {
			hops = append(hops, Hop{Kind: "application", Says: "behind " + p.product + ", which handed the answer on"})
		}
	}
	return hops, who
}

// lineProduct is the product that writes a format of access logs.
func lineProduct(format string) (kind, product string) {
	switch format {
	case "haproxy":
		return "balancer", "haproxy"
	case "envoy":
		return "gateway", "envoy"
	case "alb":
		return "balancer", "aws-elb"
	case "cloudfront":
		return "cdn", "cloudfront"
	case "iis":
		return "web-server", "iis"
	case "traefik":
		return "gateway", "traefik"
	case "caddy":
		return "web-server", "caddy"
	}
	return "", ""
}

// passingOf reads who refused by itself and who handed a refusal on.
func passingOf(c *Case, a *Answer) (out []passing) {
	h := a.Header
	add := func(product string, refused bool, weight float64, field, says string) {
		out = append(out, passing{product, refused, weight, field, says})
	}
	if l := c.Line; l != nil && l.Upstream != "" {
		_, product := lineProduct(l.Format)
		if l.Fields["upstream_status"] != "" && product == "" {
			product = "nginx" // $upstream_status
		}
		if product != "" {
			if l.Upstream == "-" {
				add(product, true, Certain, "", "the log names no upstream: this server refused by itself")
			} else {
				add(product, false, Certain, "", "the log shows the status "+plainText(l.Upstream, 20)+" of the next hop")
			}
		}
	}
	if !a.Refused() {
		return out
	}
	switch by := strings.ToLower(h.Value("Whygate-Refused-By")); {
	case by == "gateway" || h.Has("Whygate-Reason") && by == "":
		add("whygate", true, Certain, "Whygate-Refused-By", "Whygate names itself as the refuser")
	case by == "upstream":
		add("whygate", false, Certain, "Whygate-Refused-By", "Whygate says that its upstream refused")
	}
	switch {
	case h.Has("X-Kong-Upstream-Latency") || h.Has("X-Kong-Upstream-Status"):
		add("kong", false, Certain, "X-Kong-Upstream-Latency", "Kong reports the time or status of its upstream")
	case h.Has("X-Kong-Response-Latency"):
		add("kong", true, Certain, "X-Kong-Response-Latency", "Kong reports its own time and none of an upstream")
	}
	envoy := strings.Contains(strings.ToLower(h.Value("Server")), "envoy")
	switch {
	case h.Has("X-Envoy-Upstream-Service-Time"):
		add("envoy", false, Certain, "X-Envoy-Upstream-Service-Time", "Envoy reports the time of its upstream")
	case envoy:
		add("envoy", true, Fair, "Server", "Envoy reports no time of an upstream")
	}
	if h.Has("X-Apisix-Upstream-Status") {
		add("apisix", false, Certain, "X-Apisix-Upstream-Status", "APISIX reports the status of its upstream")
	}
	if h.Has("CF-Mitigated") || h.Has("CF-Error-Type") {
		add("cloudflare", true, Certain, "CF-Ray", "Cloudflare marks the answer as its own")
	}
	cache := strings.ToLower(h.Value("X-Cache"))
	if strings.HasPrefix(cache, "lambdageneratedresponse") || strings.HasPrefix(cache, "functiongeneratedresponse") {
		add("cloudfront", true, Strong, "X-Cache", "a function at the edge of CloudFront wrote the answer")
	}
	if h.Has("X-Squid-Error") {
		add("squid", true, Certain, "X-Squid-Error", "Squid marks the answer as its own")
	}
	if h.Has("X-Amzn-Errortype") && (h.Has("X-Amz-Apigw-Id") || h.Has("Apigw-Requestid") || h.Has("X-Amzn-Requestid")) {
		add("aws-api-gateway", true, 2.2, "X-Amzn-Errortype", "API Gateway names the type of its own error")
	}
	if strings.HasPrefix(h.Value("Server"), "AmazonS3") {
		add("s3-compatible-store", true, 2.2, "Server", "the store wrote the answer")
	}
	if h.Has("X-Ms-Error-Code") {
		add("azure-storage", true, Strong, "X-Ms-Error-Code", "the store names its error")
	}
	return out
}

// chain says who refused, and that a CDN stands in front of itself.
func (r *reading) chain() {
	hops, who := hopsOf(r.c)
	for _, p := range who {
		if p.field == "" {
			continue // of a line of a log, which Attribute reads
		}
		i := max(slices.IndexFunc(hops, func(h Hop) bool { return h.Product == p.product }), 0)
		c := Clue{Source: FromAnswer, Refuser: p.product, Hop: i, Weight: p.weight, Quote: p.field, Says: strings.ToUpper(p.says[:1]) + p.says[1:] + "."}
		if v := r.ans.Header.Value(p.field); v != "" {
			c.Quote += ": " + v
		}
		if p.refused {
			r.add(c)
			continue
		}
		c.Against = true // without a cause: this hop only handed the answer on
		c.Says += " It handed the refusal on."
		r.add(c)
		if i > 0 && i+1 < len(hops) && (hops[i+1].Kind == "application" || hops[i+1].Kind == "storage") && hops[i+1].Product != "" {
			next := hops[i+1]
			r.add(Clue{Source: FromAnswer, Refuser: next.Product, Hop: i + 1, Weight: min(p.weight, Strong), Quote: next.Says, Says: fmt.Sprintf("Behind %s, which handed the refusal on, the answer shows %s.", p.product, next.Product)})
		}
	}
	if !r.refused() {
		return
	}
	counts := map[string]int{}
	for _, v := range r.ans.Header.Values("Via") {
		for entry := range strings.SplitSeq(v[:min(len(v), 4096)], ",") {
			for _, product := range []string{"cloudfront", "google", "akamai"} {
				if strings.Contains(strings.ToLower(entry), product) {
					counts[product]++
				}
			}
		}
	}
	for product, n := range counts {
		if n > 1 && r.in(403, 421) {
			r.say(FromAnswer, "cdn-stacked", Hint, fmt.Sprintf("Via names %s %d times: one CDN stands in front of another.", product, n), "product", product)
		}
	}
}
