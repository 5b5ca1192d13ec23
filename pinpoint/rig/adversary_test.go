package rig

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"testing"
)

// adversaries are situations that mislead: two servers, copies of pages, masks, traps of permissions, PHP behind a web
// server. Their true cause was written down before they were diagnosed. What cannot be known from afar is refuser-only there,
// or a cause that is likely and not proved.
var adversaries = []scenario{
	{name: "W01", curl: "curl http://shop.test:{port1}/style.css" + site,
		local:  want{cause: "php-fpm-limit-extensions", who: "php-fpm", grade: "B", names: []string{"security.limit_extensions", "style.css"}},
		remote: want{cause: "php-fpm-limit-extensions", or: []string{"refuser-only"}}},
	{name: "W02", curl: "curl http://shop.test:{port1}/index.php" + site,
		local:  want{cause: "php-script-unknown", who: "php-fpm", grade: "A", names: []string{"/old/index.php", "SCRIPT_FILENAME"}},
		remote: want{cause: "php-script-unknown", who: "php-fpm"}},
	{name: "W03", curl: "curl http://shop.test:{port1}/index.php" + site,
		local:  want{cause: "upstream-unavailable", names: []string{"listen.allowed_clients", "127.0.0.1"}},
		remote: want{cause: "upstream-unavailable"}},
	{name: "W04", curl: "curl http://shop.test:{port1}/index.php" + site,
		local:  want{cause: "upstream-unavailable", grade: "A", names: []string{"fpm.sock", "listen.owner"}},
		remote: want{cause: "upstream-unavailable"}},
	{name: "W05", curl: "curl http://shop.test:{port1}/index.php" + site,
		local:  want{cause: "php-open-basedir", who: "php-fpm", grade: "B", names: []string{"open_basedir"}},
		remote: want{cause: "refuser-only", or: []string{"php-open-basedir", "php-script-unknown"}, who: "php-fpm"}},
	{name: "W06", curl: "curl http://shop.test:{port1}/list.php" + site,
		local:  want{cause: "fs-file-unreadable", who: "php-fpm", grade: "B", names: []string{"/www/list.php", "www-data"}},
		remote: want{cause: "refuser-only", or: []string{"php-fpm-limit-extensions"}, who: "php-fpm"}},
	{name: "W07", curl: "curl http://shop.test:{port1}/reports/7" + site,
		local:  want{cause: "refuser-only", never: []string{"nginx refused"}},
		remote: want{cause: "refuser-only"}},
	{name: "W08", curl: "curl http://shop.test:{port1}/?q=%27%20OR%20%271%27=%271%20--" + site,
		local:  want{cause: "waf-crs-anomaly", who: "modsecurity", grade: "A", names: []string{"942100"}},
		remote: want{cause: "waf-crs-anomaly", or: []string{"waf-managed-rule", "refuser-only"}}},
	{name: "W09", curl: "curl http://shop.test:{port1}/backup/a.sql" + site,
		local:  want{cause: "nginx-deny-rule", who: "nginx", grade: "A", names: []string{"/backup/", "deny"}},
		remote: want{cause: "refuser-only", or: []string{"", "wrong-path"}}},
	{name: "W10", fresh: true, har: []call{{curl: "curl http://shop.test:{port1}/" + site + browser}, {curl: "curl http://shop.test:{port1}/" + site + browser}},
		local:  want{cause: "rate-limit-as-403", who: "nginx", grade: "A", names: []string{"limit_req"}},
		remote: want{cause: "rate-limit-as-403", or: []string{"refuser-only", "not-reproduced"}}},
	{name: "W11", har: []call{{lost: true, curl: "curl http://shop.test:{port3}/prices --resolve shop.test:{port3}:127.0.0.1" + browser + " -H 'Origin: https://partner.example'"}},
		local:  want{cause: "cors-origin-not-allowed", or: []string{"not-reproduced", ""}},
		remote: want{cause: "cors-origin-not-allowed", or: []string{"not-reproduced", ""}}},
	{name: "W12", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "fs-posix-acl-denied", who: "nginx", grade: "A", names: []string{"mask", "setfacl"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W13", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "nginx-deny-rule", who: "nginx", grade: "A", never: []string{"setfacl", "chmod"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W14", curl: "curl http://shop.test:{port1}/a.html" + site,
		local:  want{cause: "fs-file-unreadable", who: "nginx", grade: "A", names: []string{"/www/a.html", "nogroup"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W15", curl: "curl http://shop.test:{port1}/list.txt" + site,
		local:  want{cause: "fs-symlink-denied", who: "apache-httpd", grade: "A", names: []string{"AH00037", "list.txt"}},
		remote: want{cause: "refuser-only", who: "apache-httpd"}},
	{name: "W16", curl: "curl http://shop.test:{port1}/list.txt" + site,
		local:  want{cause: "fs-symlink-denied", who: "nginx", grade: "A", names: []string{"disable_symlinks", "list.txt"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W17", curl: "curl http://shop.test:{port1}/" + site,
		local:  want{cause: "host-not-allowed", who: "django", grade: "A", names: []string{"proxy_set_header Host", "ALLOWED_HOSTS"}},
		remote: want{cause: "host-not-allowed", or: []string{"refuser-only"}, who: "django"}},
	{name: "W18", curl: "curl http://shop.test:{port1}/admin/" + site,
		local:  want{cause: "haproxy-acl-deny", who: "haproxy", grade: "B", names: []string{"admin"}},
		remote: want{cause: "haproxy-acl-deny", or: []string{"refuser-only"}, who: "haproxy"}},
	{name: "W19", curl: "curl http://shop.test:{port1}/admin/ --interface 127.0.0.2" + site,
		local:  want{cause: "client-ip-lost-behind-proxy", who: "nginx", grade: "B", names: []string{"set_real_ip_from", "127.0.0.1"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W20", curl: "curl http://shop.test:{port1}/ --interface 127.0.0.2 -u bob:wrong" + site,
		local:  want{cause: "basic-credentials-wrong", who: "nginx", grade: "A"},
		remote: want{cause: "basic-credentials-wrong", who: "nginx"}},
	{name: "W21", curl: "curl http://shop.test:{port1}/ledger/" + site,
		local:  want{cause: "refuser-only", or: []string{"refusal-masked", "role-insufficient"}, names: []string{"error_page"}, never: []string{"nginx refused"}},
		remote: want{cause: "refuser-only", or: []string{""}}},
	{name: "W22", curl: "curl http://shop.test:{port1}/internal/ -H 'X-Forwarded-For: 203.0.113.9'" + site,
		local:  want{cause: "xff-untrusted-chain", or: []string{"ip-allowlist-miss"}, secondary: []string{"apache-require-denied"}, who: "apache-httpd", grade: "B", names: []string{"203.0.113.9"}},
		remote: want{cause: "xff-untrusted-chain", who: "apache-httpd", grade: "B"}},
	{name: "W23", curl: "curl http://shop.test:{port1}/.git/config" + site,
		local:  want{cause: "apache-rewrite-forbidden", or: []string{"apache-files-protected"}, who: "apache-httpd", grade: "B", names: []string{"RedirectMatch"}},
		remote: want{cause: "refuser-only", or: []string{"apache-files-protected"}, who: "apache-httpd"}},
	{name: "W24", har: []call{{curl: "curl -X PUT http://shop.test:{port1}/index.html" + site + browser + " -d 'a=b'"}},
		local:  want{cause: "apache-limit-except", or: []string{"method-denied-by-rule"}, who: "apache-httpd", grade: "A", names: []string{"LimitExcept"}},
		remote: want{cause: "method-denied-by-rule", or: []string{"refuser-only", "apache-limit-except"}, who: "apache-httpd"}},
	{name: "W25", har: []call{{curl: "curl http://shop.test:{port1}/notes" + site + browser + " -d 'text=" + fmt.Sprintf("%02000d", 7) + "'"}},
		local:  want{cause: "framework-body-limit", or: []string{"body-too-large"}, names: []string{"MAX_CONTENT_LENGTH"}, never: []string{"client_max_body_size"}},
		remote: want{cause: "framework-body-limit", or: []string{"body-too-large"}, never: []string{"client_max_body_size"}}},
	{name: "W26", curl: "curl http://shop.test:{port1}/orders -H 'api_key: k-51f0c7aa'" + site,
		local:  want{cause: "auth-header-stripped", grade: "B", names: []string{"underscores_in_headers", "api_key"}},
		remote: want{cause: "api-key-missing", or: []string{"auth-header-stripped", "refuser-only", "api-key-wrong-location", "auth-missing"}}},
	{name: "W27", curl: "curl http://shop.test:{port1}/orders -H 'Authorization: Bearer " + readToken + "'" + site,
		local:  want{cause: "auth-header-stripped", grade: "B", names: []string{"proxy_set_header", "Authorization"}},
		remote: want{cause: "auth-header-stripped", or: []string{"refuser-only", "", "auth-missing", "token-revoked", "auth-credentials-invalid"}}},
	{name: "W28", curl: "curl http://shop.test:{port1}/api.php -H 'Authorization: Bearer " + readToken + "'" + site,
		local:  want{cause: "auth-header-stripped", grade: "B", names: []string{"CGIPassAuth", "Authorization"}},
		remote: want{cause: "auth-header-stripped", or: []string{"refuser-only", "", "auth-missing", "token-revoked", "auth-credentials-invalid"}}},
	{name: "W29", curl: "curl http://shop.test:{port1}/" + site,
		local:  want{cause: "waf-custom-rule", who: "cloudflare", or: []string{"refuser-only", "waf-managed-rule", "ip-denied"}},
		remote: want{cause: "waf-custom-rule", who: "cloudflare", or: []string{"refuser-only", "waf-managed-rule", "ip-denied"}}},
	{name: "W30", curl: "curl http://shop.test:{port1}/protected/a.pdf" + site,
		local:  want{cause: "nginx-internal-location", who: "nginx", grade: "B", names: []string{"internal", "/protected/"}},
		remote: want{cause: "refuser-only", or: []string{"", "wrong-path"}}},
	{name: "W31", curl: "curl 'http://shop.test:{port1}/dl/a.zip?md5=" + signedLink("/dl/a.zip", "1600000000") + "&expires=1600000000'" + site,
		local:  want{cause: "nginx-secure-link", or: []string{"app-signed-url-invalid"}, who: "nginx", grade: "B", names: []string{"expires"}, never: []string{"s3cr3t-of-links"}},
		remote: want{cause: "nginx-secure-link", or: []string{"app-signed-url-invalid", "cdn-signed-url-invalid", "refuser-only", "store-url-expired"}}},
	{name: "W32", curl: "curl http://www.shop.test:{port1}/ --resolve www.shop.test:{port1}:127.0.0.1",
		local:  want{cause: "web-server-default-vhost", or: []string{"host-not-allowed"}, secondary: []string{"nginx-return-403"}, who: "nginx", grade: "B", names: []string{"www.shop.test", "default server"}},
		remote: want{cause: "refuser-only", or: []string{"web-server-default-vhost"}, who: "nginx"}},
	{name: "W33", curl: "curl http://shop.test:{port1}/export" + site,
		local:  want{cause: "app-business-rule", or: []string{"refuser-only", "app-state-locked", ""}, never: []string{"nginx refused"}},
		remote: want{cause: "app-business-rule", or: []string{"refuser-only", "app-state-locked", ""}, never: []string{"nginx refused"}}},
	{name: "W34", curl: "curl http://shop.test:{port1}/ --interface 127.0.0.5" + site,
		local:  want{cause: "ip-denied", or: []string{"nginx-return-403"}, who: "nginx", grade: "B", names: []string{"blocked"}},
		remote: want{cause: "refuser-only", who: "nginx"}},
	{name: "W35", curl: "curl http://shop.test:{port1}/docs/a.pdf" + site,
		local:  want{cause: "fs-dir-no-search", who: "apache-httpd", grade: "A", names: []string{"/store/private"}},
		remote: want{cause: "refuser-only", who: "apache-httpd"}},
	{name: "W36", curl: "curl http://shop.test:{port1}/a.inc" + site,
		local:  want{cause: "lighttpd-access-deny", who: "lighttpd", names: []string{".inc"}},
		remote: want{cause: "refuser-only", or: []string{"", "lighttpd-access-deny"}}},

	// The neighbours of what is refused.
	{name: "CW1", control: true, file: "W01", curl: "curl http://shop.test:{port1}/index.php" + site},
	{name: "CW2", control: true, file: "W13", curl: "curl http://shop.test:{port1}/b.html" + site},
	{name: "CW3", control: true, file: "W18", curl: "curl http://shop.test:{port1}/" + site},
	{name: "CW4", control: true, file: "W34", curl: "curl http://shop.test:{port1}/" + site},
}

// signedLink is what secure_link_md5 of W31 expects (ngx_http_secure_link_module).
func signedLink(path, expires string) string {
	sum := md5.Sum([]byte(expires + path + " s3cr3t-of-links"))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func TestAdversaries(t *testing.T) {
	all := &results{}
	t.Run("all", func(t *testing.T) {
		for i := range adversaries {
			k := &adversaries[i]
			t.Run(k.name, func(t *testing.T) {
				t.Parallel()
				k.run(t, all)
			})
		}
	})
	all.score(t)
}
