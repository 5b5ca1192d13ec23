package rig

import (
	"strings"
	"time"
)

// site leads the name of the shop to the rig.
const site = " --resolve shop.test:{port1}:127.0.0.1"

// browser is what a browser sends beside.
const browser = ` -H 'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0' -H 'Accept: */*' -H 'Accept-Language: en'`

var expiredToken = token(time.Now().Add(-2*time.Hour), "orders:read orders:write")
var readToken = token(time.Now().Add(time.Hour), "orders:read")

// scenarios are those of the catalogue, and controls. Where it leaves open what a diagnosis from afar may say, the refuser alone is right, too.
var scenarios = []scenario{
	{name: "S01", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "fs-dir-no-search", who: "nginx", grade: "B", names: []string{"/t1/private", "www-data", "x"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "S02", curl: "curl http://shop.test:{port1}/report.pdf" + site,
		local:  want{cause: "fs-file-unreadable", who: "apache-httpd", grade: "A", names: []string{"AH00132", "/t2/report.pdf"}},
		remote: want{cause: "refuser-only", who: "apache-httpd"}},
	{name: "S03", har: []call{{curl: "curl http://shop.test:{port1}/img/logo.txt" + site + browser}, {curl: "curl http://shop.test:{port1}/img/" + site + browser}},
		local:  want{cause: "no-index-listing-off", who: "nginx", grade: "A", names: []string{"/img/"}},
		remote: want{cause: "no-index-listing-off", who: "nginx"}},
	{name: "S04", har: []call{{curl: "curl http://shop.test:{port1}/img/logo.txt" + site + browser}, {curl: "curl http://shop.test:{port1}/img/" + site + browser}},
		local:  want{cause: "no-index-listing-off", who: "apache-httpd", grade: "A", names: []string{"AH01276"}},
		remote: want{cause: "no-index-listing-off", who: "apache-httpd"}},
	{name: "S05", curl: "curl http://shop.test:{port1}/pub/a.html" + site,
		local:  want{cause: "apache-require-denied", who: "apache-httpd", grade: "A", names: []string{"/t5/.htaccess", `"line": 2`}},
		remote: want{cause: "refuser-only", or: []string{"apache-require-denied"}, who: "apache-httpd"}},
	{name: "S06", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "apache-htaccess-unreadable", who: "apache-httpd", grade: "A", names: []string{"AH00529", "/t6/.htaccess"}},
		remote: want{cause: "apache-htaccess-unreadable", who: "apache-httpd"}},
	{name: "S07", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "apache-allowoverride-none", secondary: []string{"apache-require-denied"}, who: "apache-httpd", grade: "B", names: []string{"/t7/.htaccess", "/httpd.conf"}},
		remote: want{cause: "refuser-only", who: "apache-httpd"}},
	{name: "S08", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "user-agent-blocked", who: "apache-httpd", grade: "B", names: []string{"RewriteCond", "error log"}},
		remote: want{cause: "user-agent-blocked", grade: "B", who: "apache-httpd"}},
	{name: "S09", curl: "curl http://[::1]:{port1}/",
		local:  want{cause: "ip-family-mismatch", secondary: []string{"nginx-deny-rule"}, who: "nginx", grade: "A", names: []string{"::1"}},
		remote: want{cause: "ip-family-mismatch", grade: "B", who: "nginx"}},
	{name: "S10", curl: "curl http://shop.test:{port1}/internal/ --interface 127.0.0.2" + site, origin: "127.0.0.1:{port2}",
		local:  want{cause: "client-ip-lost-behind-proxy", who: "apache-httpd", grade: "B", names: []string{"RemoteIP", "127.0.0.1"}},
		remote: want{cause: "client-ip-lost-behind-proxy", or: []string{"refuser-only"}, who: "apache-httpd"}},
	{name: "S11", curl: "curl http://shop.test:{port1}/.well-known/acme-challenge/tok" + site,
		local:  want{cause: "nginx-location-precedence", who: "nginx", grade: "A", names: []string{`/\.`, "^~"}},
		remote: want{cause: "refuser-only", or: []string{"nginx-location-precedence", "path-deny-rule", "hidden-file-denied"}, who: "nginx"}},
	{name: "S12", har: []call{{curl: "curl http://shop.test:{port1}/api/items" + site + browser + ` -H 'Content-Type: application/json' -d '{"name":"cup"}'`}},
		local:  want{cause: "method-denied-by-rule", who: "nginx", grade: "A", names: []string{"limit_except"}},
		remote: want{cause: "method-denied-by-rule", who: "nginx"}},
	{name: "S13", curl: "curl http://shop.test:{port1}/a.jpg -H 'Referer: https://other.example/'" + site,
		local:  want{cause: "hotlink-referer", who: "nginx", grade: "B", names: []string{"valid_referers", "no line"}},
		remote: want{cause: "hotlink-referer", grade: "B", who: "nginx"}},
	{name: "S14", curl: "curl http://shop.test:{port1}/app/ -H 'Cookie: sid=bad'" + site,
		local:  want{cause: "nginx-auth-request-denied", who: "nginx", grade: "B", names: []string{"/_verify", `"decider"`}},
		remote: want{cause: "refuser-only", or: []string{"nginx-auth-request-denied"}, who: "nginx"}},
	{name: "S15", curl: "curl http://shop.test:{port1}/ --interface 127.0.0.2 -u bob:right" + site,
		local:  want{cause: "nginx-satisfy-all", secondary: []string{"nginx-deny-rule"}, who: "nginx", grade: "A"},
		remote: want{cause: "nginx-satisfy-all", or: []string{"refuser-only", "nginx-deny-rule"}, who: "nginx"}},
	{name: "S16", probe: true, bisect: true, har: []call{{curl: "curl http://shop.test:{port1}/tickets" + site + browser + ` -H 'Content-Type: application/json' -d '{"title":"help","comment":"the form says 1'"'"' OR '"'"'1'"'"'='"'"'1 when I save"}'`}},
		local:  want{cause: "waf-crs-anomaly", grade: "A", names: []string{"comment", "942100", "'"}},
		remote: want{cause: "waf-crs-anomaly", names: []string{"comment", "'"}}},
	{name: "S17", probe: true, har: []call{{curl: "curl -X DELETE http://shop.test:{port1}/items/5" + site + browser}},
		local:  want{cause: "waf-method-policy", grade: "A", names: []string{"911100", "allowed_methods"}},
		remote: want{cause: "waf-method-policy"}},
	{name: "S18", probe: true, har: []call{{curl: "curl http://shop.test:{port1}/tickets" + site + browser + ` -H 'Content-Type: application/vnd.api+json' -d '{"data":{"type":"tickets"}}'`}},
		local:  want{cause: "waf-content-type-policy", grade: "A", names: []string{"920420"}},
		remote: want{cause: "waf-content-type-policy"}},
	{name: "S19", probe: true, har: []call{{curl: "curl http://shop.test:{port1}/upload" + site + browser + ` -H 'Content-Type: application/json' -d '{"text":"` + strings.Repeat("aaaaaaaaa ", 20<<10) + `"}'`}},
		local:  want{cause: "waf-body-limit", grade: "A", names: []string{"131072"}},
		remote: want{cause: "waf-body-limit", names: []string{"131072"}}},
	{name: "S20", har: []call{{curl: "curl http://shop.test:{port1}/upload" + site + browser + ` -H 'Content-Type: text/plain' -d '` + strings.Repeat("abcdefghi ", 205<<10) + `'`}},
		local:  want{cause: "body-too-large", who: "nginx", grade: "A", names: []string{"client_max_body_size"}},
		remote: want{cause: "body-too-large", who: "nginx", names: []string{"client_max_body_size"}}},
	{name: "S21", har: []call{{curl: "curl http://shop.test:{port1}/shop/" + site + browser}, {curl: "curl http://shop.test:{port1}/admin/" + site + browser}},
		local:  want{cause: "haproxy-acl-deny", who: "haproxy", grade: "B", names: []string{"admin", "lan"}},
		remote: want{cause: "haproxy-acl-deny", who: "haproxy"}},
	{name: "S21b", file: "S21", curl: "curl http://shop.test:{port1}/admin/" + site, before: []string{"curl http://shop.test:{port1}/admin/" + site}, line: "PR--",
		local:  want{cause: "haproxy-acl-deny", who: "haproxy", names: []string{"admin", "PR--"}},
		remote: want{cause: "haproxy-acl-deny", who: "haproxy", names: []string{"PR--"}}},
	{name: "S22", fresh: true, curl: "curl http://shop.test:{port1}/shop/" + site, line: "PR--",
		before: repeat("curl http://shop.test:{port1}/shop/ --interface 127.0.0.9"+site, 6),
		local:  want{cause: "rate-limit-as-403", who: "haproxy", most: 8},
		remote: want{cause: "rate-limit-as-403", who: "haproxy", most: 8}},
	{name: "S23", curl: "curl http://shop.test:{port1}/config.inc" + site,
		local:  want{cause: "lighttpd-access-deny", who: "lighttpd", names: []string{".inc"}},
		remote: want{cause: "refuser-only", or: []string{"lighttpd-access-deny"}, who: "lighttpd"}},
	{name: "S24", har: []call{{curl: "curl http://shop.test:{port3}/contact/ --resolve shop.test:{port3}:127.0.0.1" + browser + " -H 'Cookie: csrftoken=kJ2bq0s1t3u4v5w6x7y8z9A0B1C2D3E4F5G6H7I8J9K0L1M2N3O4P5Q6R7S8T9U0' -d 'name=Ann&text=hello'"}},
		local:  want{cause: "csrf-token-missing", who: "django", grade: "A", names: []string{"Forbidden (CSRF token missing"}},
		remote: want{cause: "csrf-token-missing", who: "django"}},
	{name: "S25", curl: "curl http://shop.test:{port3}/orders --resolve shop.test:{port3}:127.0.0.1 -H 'Authorization: Bearer " + expiredToken + "'",
		local:  want{cause: "jwt-expired", grade: "C"},
		remote: want{cause: "jwt-expired", grade: "C"}},
	{name: "S25b", file: "S25", swap: "Bearer " + readToken, curl: "curl http://shop.test:{port3}/orders --resolve shop.test:{port3}:127.0.0.1 -H 'Authorization: Bearer " + expiredToken + "'",
		local:  want{cause: "jwt-expired", grade: "B"},
		remote: want{cause: "jwt-expired", grade: "B"}},
	{name: "S26", har: []call{{curl: "curl http://shop.test:{port3}/orders --resolve shop.test:{port3}:127.0.0.1" + browser + " -H 'Authorization: Bearer " + readToken + `' -H 'Content-Type: application/json' -d '{"item":7}'`}},
		local:  want{cause: "scope-insufficient", names: []string{"orders:write"}},
		remote: want{cause: "scope-insufficient", names: []string{"orders:write"}}},
	{name: "S27", har: []call{
		{curl: "curl -X OPTIONS http://shop.test:{port3}/orders/7 --resolve shop.test:{port3}:127.0.0.1" + browser + " -H 'Origin: https://app.test' -H 'Access-Control-Request-Method: PUT' -H 'Access-Control-Request-Headers: authorization,content-type'"},
		{lost: true, asked: true, curl: "curl -X PUT http://shop.test:{port3}/orders/7 --resolve shop.test:{port3}:127.0.0.1" + browser + " -H 'Origin: https://app.test' -H 'Authorization: Bearer " + readToken + `' -H 'Content-Type: application/json' -d '{"item":7}'`}},
		local:  want{cause: "cors-preflight-refused", names: []string{"never"}},
		remote: want{cause: "cors-preflight-refused", names: []string{"never"}}},
	{name: "S28", har: []call{
		{curl: "curl http://shop.test:{port1}/prod/submit" + site + browser + " -d 'a=b'"},
		{curl: "curl http://shop.test:{port1}/" + site + browser}},
		local:  want{cause: "stage-prefix-lost", names: []string{"/prod", "url_for"}},
		remote: want{cause: "stage-prefix-lost", names: []string{"/prod", "url_for"}}},
	{name: "S29", fresh: true, curl: "curl http://shop.test:{port1}/page" + site, before: []string{"curl http://shop.test:{port1}/page" + site},
		local:  want{cause: "cdn-cached-refusal", grade: "B"},
		remote: want{cause: "cdn-cached-refusal", grade: "B"}},
	{name: "S30", curl: "curl -k https://shop.test:{port1}/" + site,
		local:  want{cause: "mtls-client-cert-missing", who: "nginx", grade: "B", names: []string{"info"}},
		remote: want{cause: "mtls-client-cert-missing", who: "nginx", grade: "C"}},
	{name: "S30b", file: "S30", curl: "curl -k https://shop.test:{port1}/ --cert {dir}/expired.pem --key {dir}/expired.key" + site,
		local:  want{cause: "mtls-client-cert-invalid", who: "nginx", grade: "C"},
		remote: want{cause: "mtls-client-cert-invalid", who: "nginx", grade: "C"}},

	// Nothing is refused.
	{name: "C01", control: true, file: "S02", curl: "curl http://shop.test:{port1}/other.pdf" + site},
	{name: "C02", control: true, file: "S03", curl: "curl http://shop.test:{port1}/index.html" + site},
	{name: "C03", control: true, file: "S08", curl: "curl http://shop.test:{port1}/a.html -A 'Mozilla/5.0 (X11)'" + site},
	{name: "C04", control: true, file: "S09", curl: "curl http://127.0.0.1:{port1}/"},
	{name: "C05", control: true, file: "S12", curl: "curl http://shop.test:{port1}/api/items" + site},
	{name: "C06", control: true, file: "S14", curl: "curl http://shop.test:{port1}/app/ -H 'Cookie: sid=ok'" + site},
	{name: "C07", control: true, file: "S15", curl: "curl http://shop.test:{port1}/ --interface 127.0.0.3 -u bob:right" + site},
	{name: "C08", control: true, file: "S16", curl: "curl http://shop.test:{port1}/items/5" + site},
	{name: "C09", control: true, file: "S21", curl: "curl http://shop.test:{port1}/shop/" + site},
	{name: "C10", control: true, file: "S26", curl: "curl http://shop.test:{port3}/orders --resolve shop.test:{port3}:127.0.0.1 -H 'Authorization: Bearer " + readToken + "'"},
}

func repeat(text string, n int) (list []string) {
	for range n {
		list = append(list, text)
	}
	return list
}
