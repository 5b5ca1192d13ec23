package gateway

import "github.com/whygate/whygate/wire"

// identityFields are names by which proxies that authenticate tell applications who calls, by their first letter in
// lower case; a name that ends in "-" stands for all that begin so. Applications believe them, whoever wrote them.
// From: oauth2-proxy (x-forwarded-user, x-auth-request-user), Authelia (remote-user), Apache httpd and IIS
// (x-remote-user), Grafana (x-webauth-user), nginx and HAProxy with client certificates (ssl-client-verify,
// x-ssl-client-cert), Envoy (x-forwarded-client-cert), Kong (x-consumer-username), and the gateways of clouds.
var identityFields = map[byte][]string{
	'c': {"cf-access-authenticated-user-email"},
	'r': {"remote-user", "remote-groups", "remote-name", "remote-email"},
	's': {"ssl-client-"},
	'x': {"x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-client-cert",
		"x-auth-request-", "x-remote-user", "x-remote-group", "x-remote-groups", "x-webauth-", "x-ssl-client-", "x-client-cert", "x-authenticated-",
		"x-goog-authenticated-user-", "x-ms-client-principal", "x-ms-client-principal-", "x-amzn-oidc-identity"},
}

// claimsIdentity says that a field names the caller to the application. From a trusted proxy that is welcome,
// anybody else could name whom they like.
func claimsIdentity(name string) bool {
	if len(name) < 11 { // the shortest is remote-user
		return false
	}
	switch first := name[0] | 0x20; first {
	case 'c', 'r', 's', 'x':
		for _, known := range identityFields[first] {
			n := len(known)
			if known[n-1] == '-' && len(name) > n || len(name) == n {
				if wire.EqualFold(name[:n], known) {
					return true
				}
			}
		}
	}
	return false
}
