package pinpoint

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"
)

// readRow is one answer about one analysis: with gives the cause, without does not.
type readRow struct {
	name   string
	cause  string
	with   []string // exchanges; the last one is asked about
	source string
}

const readJSON = "Content-Type: application/json\n"

// readWith are refusals that have the fault.
var readWith = []readRow{
	{"bearer without blank", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: Bearerabcdefghijk\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"bearer with colon", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: Bearer: abcdefghijk\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"bare token", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: @jwt{\"exp\":1772370000}@\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"Token for Bearer", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: Token abcdefghijk\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"unset variable", "auth-credentials-invalid", []string{"GET https://a.test/\nAuthorization: Bearer undefined\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"template", "auth-credentials-invalid", []string{"GET https://a.test/\nAuthorization: Bearer {{token}}\n\n>>> 401\n"}, ""},
	{"basic wrong", "basic-credentials-wrong", []string{"GET https://a.test/\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte("bob:secret-of-bob")) + "\n\n>>> 401\nWWW-Authenticate: Basic realm=\"x\""}, ""},
	{"basic without colon", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte("bob-secret-of-bob")) + "\n\n>>> 401\nWWW-Authenticate: Basic realm=\"x\""}, ""},
	{"basic for bearer", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte("bob:secret-of-bob")) + "\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"nothing sent", "auth-missing", []string{"GET https://a.test/\nAccept: */*\n\n>>> 401\nWWW-Authenticate: Bearer realm=\"x\""}, ""},
	{"sent and not seen", "auth-header-stripped", []string{"GET https://a.test/\nAuthorization: Bearer opaque-opaque-1\n\n>>> 401\n" + readJSON + "\n{\"error\":\"No authorization token was found\"}"}, ""},
	{"mfa", "mfa-required", []string{"GET https://a.test/\nAuthorization: Bearer opaque-opaque-1\n\n>>> 401\nWWW-Authenticate: Bearer error=\"insufficient_user_authentication\", acr_values=\"mfa\""}, ""},
	{"expired by description", "jwt-expired", []string{"GET https://a.test/\nAuthorization: Bearer opaque-opaque-1\n\n>>> 401\nWWW-Authenticate: Bearer error=\"invalid_token\", error_description=\"The access token expired\""}, ""},
	{"audience by description", "jwt-audience-mismatch", []string{"GET https://a.test/\nAuthorization: Bearer opaque-opaque-1\n\n>>> 401\nWWW-Authenticate: Bearer error=\"invalid_token\", error_description=\"The audience 'x' is invalid\""}, ""},
	{"unsigned", "jwt-alg-rejected", []string{"GET https://a.test/\nAuthorization: Bearer " + unsignedToken + "\n\n>>> 401\n"}, ""},
	{"refresh token", "token-type-wrong", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"typ\":\"Refresh\",\"exp\":1772370000}@\n\n>>> 401\n"}, ""},
	{"id token", "token-type-wrong", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"nonce\":\"n\",\"at_hash\":\"h\",\"exp\":1772370000}@\n\n>>> 401\n"}, ""},
	{"not yet valid", "jwt-not-yet-valid", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"nbf\":1772369900,\"exp\":1772379900}@\n\n>>> 401\nDate: @now@"}, ""},
	{"expired in a cookie", "jwt-expired", []string{"GET https://a.test/\nCookie: access_token=@jwt{\"exp\":1772300000}@\n\n>>> 401\nDate: @now@"}, ""},
	{"expired in a field", "jwt-expired", []string{"GET https://a.test/\nX-Auth-Token: @jwt{\"exp\":1772300000}@\n\n>>> 403\nDate: @now@"}, ""},
	{"expired in the query", "jwt-expired", []string{"GET https://a.test/?access_token=@jwt{\"exp\":1772300000}@\nAccept: */*\n\n>>> 403\nDate: @now@"}, ""},
	{"two parts", "jwt-malformed", []string{"GET https://a.test/\nAuthorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9\n\n>>> 401\n"}, ""},
	{"read only scope", "scope-insufficient", []string{"DELETE https://a.test/x\nAuthorization: Bearer @jwt{\"scope\":\"orders:read openid\",\"exp\":1772370000}@\n\n>>> 403\n"}, ""},
	{"issuer of another realm", "jwt-issuer-mismatch", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"iss\":\"https://id.test/realms/dev\",\"exp\":1772370000}@\n\n>>> 401\nWWW-Authenticate: Bearer authorization_uri=\"https://id.test/realms/prod\""}, ""},
	{"key where nobody looks", "api-key-wrong-location", []string{"GET https://a.test/?api_key=0123456789abcdef\nAccept: */*\n\n>>> 401\n" + readJSON + "\n{\"message\":\"No API key found in request\"}"}, ""},
	{"no key", "api-key-missing", []string{"GET https://a.test/\nAccept: */*\n\n>>> 401\n" + readJSON + "\n{\"message\":\"No API key found in request\"}"}, ""},
	{"signed field lacks", "store-signature-mismatch", []string{"GET https://b.s3.eu-west-1.amazonaws.com/a\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260301/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=0123456789abcdef\nX-Amz-Date: 20260301T120000Z\n\n>>> 403\nDate: @now@"}, ""},
	{"signature skewed", "store-time-skewed", []string{"GET https://b.s3.eu-west-1.amazonaws.com/a\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260301/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0123456789abcdef\nX-Amz-Date: 20260301T110000Z\n\n>>> 403\nDate: @now@"}, ""},
	{"host of the proxy", "store-signature-mismatch", []string{"GET https://files.test/a\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260301/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0123456789abcdef\nX-Amz-Date: 20260301T120000Z\n\n>>> 403\n\n<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>GET\n/a\n\nhost:minio.internal:9000\n\nhost</CanonicalRequest></Error>"}, ""},
	{"google link", "store-url-expired", []string{"GET https://storage.googleapis.com/b/a?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=x%40y%2F20260228%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date=20260228T120000Z&X-Goog-Expires=900&X-Goog-SignedHeaders=host&X-Goog-Signature=abcdef\nAccept: */*\n\n>>> 400\n\n<Error><Code>ExpiredToken</Code></Error>"}, ""},
	{"sas expired", "store-url-expired", []string{"GET https://a.blob.core.windows.net/c/b?sv=2022-11-02&sp=r&se=2026-02-01&sr=b&sig=abc\nAccept: */*\n\n>>> 403\n"}, ""},
	{"sas by http", "https-required", []string{"GET http://a.blob.core.windows.net/c/b?sv=2022-11-02&sp=r&se=2026-04-01&sr=b&spr=https&sig=abc\nAccept: */*\n\n>>> 403\n"}, ""},
	{"edge token", "cdn-signed-url-invalid", []string{"GET https://a.test/v.m3u8?hdnts=exp=1772300000~acl=/*~hmac=abcdef\nAccept: */*\n\n>>> 403\n"}, ""},
	{"xsrf pair", "csrf-token-invalid", []string{"POST https://a.test/x\nCookie: XSRF-TOKEN=aaaaaaaaaaaa\nX-XSRF-TOKEN: bbbbbbbbbbbb\n\n>>> 403\n"}, ""},
	{"419 without token", "csrf-token-missing", []string{"POST https://a.test/x\nCookie: laravel_session=abcdefgh1234\n\n>>> 419\n"}, ""},
	{"csrf cookie lacks", "csrf-cookie-missing", []string{"POST https://a.test/x\nOrigin: https://a.test\nContent-Type: application/x-www-form-urlencoded\n\ncsrfmiddlewaretoken=abcdefghijklmnopqrstuvwxyzABCDEF&a=1\n>>> 403\n"}, ""},
	{"origin of another scheme", "csrf-origin-untrusted", []string{"POST http://a.test/x\nOrigin: https://a.test\nCookie: sessionid=abcdefgh1234; csrftoken=abcdefghijklmnopqrstuvwxyzABCDEF\nX-CSRFToken: abcdefghijklmnopqrstuvwxyzABCDEF\n\n>>> 403\n"}, ""},
	{"no referer", "csrf-referer-missing", []string{"POST https://a.test/x\nCookie: csrftoken=abcdefghijklmnopqrstuvwxyzABCDEF\nContent-Type: application/x-www-form-urlencoded\n\ncsrfmiddlewaretoken=abcdefghijklmnopqrstuvwxyzABCDEF\n>>> 403\n"}, ""},
	{"other origin", "cors-origin-not-allowed", []string{"OPTIONS https://a.test/x\nOrigin: https://b.test\nAccess-Control-Request-Method: PUT\n\n>>> 204\nAccess-Control-Allow-Origin: https://c.test\nAccess-Control-Allow-Methods: PUT"}, ""},
	{"method across origins", "cors-preflight-refused", []string{"OPTIONS https://a.test/x\nOrigin: https://b.test\nAccess-Control-Request-Method: PUT\n\n>>> 204\nAccess-Control-Allow-Origin: *\nAccess-Control-Allow-Methods: GET"}, ""},
	{"star and Authorization", "cors-preflight-refused", []string{"OPTIONS https://a.test/x\nOrigin: https://b.test\nAccess-Control-Request-Method: GET\nAccess-Control-Request-Headers: authorization\n\n>>> 204\nAccess-Control-Allow-Origin: *\nAccess-Control-Allow-Headers: *"}, ""},
	{"session redirected", "session-expired", []string{"GET https://a.test/x\nCookie: sessionid=abcdefgh1234\n\n>>> 302\nLocation: /login?next=/x"}, ""},
	{"oauth2-proxy", "zero-trust-access-denied", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 302\nLocation: https://auth.test/oauth2/start?rd=x"}, ""},
	{"redirect to https", "https-required", []string{"POST http://a.test/x\nContent-Type: text/plain\n\na\n>>> 301\nLocation: https://a.test/x", "GET https://a.test/x\nAccept: */*\n\n>>> 405\n"}, ""},
	{"cached redirect", "client-cached-redirect", []string{"GET https://a.test/old\nAccept: */*\n\n>>> 301\nDate: Mon, 05 Jan 2026 10:00:00 GMT\nLocation: /gone", "GET https://a.test/gone\nAccept: */*\n\n>>> 404\n"}, ""},
	{"rate limit", "rate-limit", []string{"GET https://a.test/\nAccept: */*\n\n>>> 429\nRetry-After: 30"}, ""},
	{"rate limit, structured", "rate-limit-as-403", []string{"GET https://a.test/\nAccept: */*\n\n>>> 403\nRateLimit: \"default\";r=0;t=30"}, ""},
	{"quota", "quota-exceeded", []string{"GET https://a.test/\nAccept: */*\n\n>>> 429\nRetry-After: 40000"}, ""},
	{"too long", "uri-too-long", []string{"GET https://a.test/?q=" + strings.Repeat("x", 9000) + "\nAccept: */*\n\n>>> 414\n"}, ""},
	{"no length", "missing-content-length", []string{"POST https://a.test/\nTransfer-Encoding: chunked\n\na\n>>> 411\n"}, ""},
	{"expect", "expect-continue-rejected", []string{"PUT https://a.test/\nExpect: 100-continue\n\na\n>>> 417\n"}, ""},
	{"express", "framework-body-limit", []string{"POST https://a.test/\nContent-Length: 200000\n\na\n>>> 413\nX-Powered-By: Express"}, ""},
	{"ModSecurity's limit", "waf-body-limit", []string{"POST https://a.test/\nContent-Type: application/json\nContent-Length: 200000\n\n{}\n>>> 413\nServer: Apache"}, ""},
	{"xml", "body-malformed", []string{"POST https://a.test/\nContent-Type: application/xml\n\n<a><b></a>x<\n>>> 400\n"}, ""},
	{"not UTF-8", "body-malformed", []string{"POST https://a.test/\nContent-Type: application/json\n\n{\"a\":\"\xe9\"}\n>>> 400\n"}, ""},
	{"boundary", "body-malformed", []string{"POST https://a.test/\nContent-Type: multipart/form-data\n\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n\n>>> 400\n"}, ""},
	{"accept", "accept-unacceptable", []string{"GET https://a.test/\nAccept: text/csv\n\n>>> 406\n"}, ""},
	{"fastapi", "schema-violation", []string{"POST https://a.test/\nContent-Type: application/json\n\n{}\n>>> 422\n" + readJSON + "\n{\"detail\":[{\"loc\":[\"body\",\"name\"],\"msg\":\"field required\",\"type\":\"value_error.missing\"}]}"}, ""},
	{"allow", "method-not-allowed", []string{"PUT https://a.test/x\nAccept: */*\n\n>>> 405\nAllow: GET, HEAD"}, ""},
	{"case", "wrong-path", []string{"GET https://a.test/Users/5\nAccept: */*\n\n>>> 200\n", "GET https://a.test/users/5\nAccept: */*\n\n>>> 404\n"}, ""},
	{"unset in the path", "wrong-path", []string{"GET https://a.test/users/undefined/orders\nAccept: */*\n\n>>> 403\n"}, ""},
	{"twice encoded", "path-encoding", []string{"GET https://a.test/f/a%2520b\nAccept: */*\n\n>>> 404\n"}, ""},
	{"other host", "host-not-allowed", []string{"GET http://localhost:3000/x\nAccept: */*\n\n>>> 200\n", "GET http://127.0.0.1:3000/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"misdirected", "sni-host-mismatch", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 421\n"}, ""},
	{"http on tls", "plain-http-on-tls-port", []string{"GET http://a.test:8443/x\nAccept: */*\n\n>>> 400\n\nClient sent an HTTP request to an HTTPS server.\n"}, ""},
	{"hotlink", "hotlink-referer", []string{"GET https://a.test/x.jpg\nReferer: https://other.test/p\n\n>>> 403\n"}, ""},
	{"grpc", "grpc-permission-denied", []string{"POST https://a.test/pkg.S/M\nContent-Type: application/grpc\n\n>>> 200\nContent-Type: application/grpc\nGrpc-Status: 7\nGrpc-Message: no"}, ""},
	{"tenant", "tenant-mismatch", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 403\n" + readJSON + "\n{\"code\":\"TENANT_MISMATCH\"}"}, ""},
	{"role", "role-insufficient", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 403\n" + readJSON + "\n{\"title\":\"Forbidden\",\"detail\":\"You do not have the required role auditor\"}"}, ""},
	{"plan", "plan-not-entitled", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 403\n" + readJSON + "\n{\"message\":\"This requires a premium plan\"}"}, ""},
	{"legal", "app-legal-block", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 451\nLink: <https://x.test/>; rel=\"blocked-by\""}, ""},
	{"index", "no-index-listing-off", []string{"GET https://a.test/img/a.png\nAccept: */*\n\n>>> 200\n", "GET https://a.test/img/\nAccept: */*\n\n>>> 403\nServer: nginx\nContent-Type: text/html"}, ""},
	{"series", "rate-limit-as-403", []string{
		"GET https://a.test/l\nAccept: */*\n@at: -20s\n\n>>> 200\n", "GET https://a.test/l\nAccept: */*\n@at: -15s\n\n>>> 200\n", "GET https://a.test/l\nAccept: */*\n@at: -10s\n\n>>> 200\n",
		"GET https://a.test/l\nAccept: */*\n@at: -5s\n\n>>> 403\n", "GET https://a.test/l\nAccept: */*\n\n>>> 403\n"}, ""},
}

// unsignedToken is a token with alg none.
var unsignedToken = "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1772370000}`)) + "."

func TestReadFinds(t *testing.T) {
	for _, row := range readWith {
		t.Run(row.name, func(t *testing.T) {
			c := readCase(t, row.with...)
			secrets := readSealed(c)
			clues := Read(c, readNow)
			readCheck(t, clues, secrets)
			if got := readCauses(clues, Fair); !slices.Contains(got, row.cause) {
				t.Errorf("%s lacks in %v\n%s", row.cause, got, readText(clues))
			}
		})
	}
}

// readWithout are ordinary refusals, and what their near misses must not be called. A cause that ends in a
// dash stands for all that begin so; "" for every cause.
var readWithout = []readRow{
	{"plain 403", "", []string{"GET https://a.test/a.html\nAccept: */*\nUser-Agent: Mozilla/5.0\n\n>>> 403\nServer: nginx\nContent-Type: text/html\n\n<h1>403 Forbidden</h1>"}, ""},
	{"plain 404", "", []string{"GET https://a.test/a.html\nAccept: */*\n\n>>> 404\nServer: Apache\nContent-Type: text/html\n\nNot Found"}, ""},
	{"503 without a field", "", []string{"GET https://a.test/a\nAccept: */*\n\n>>> 503\nServer: nginx"}, ""},
	{"valid token", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"exp\":1772370000,\"iat\":1772366000,\"scope\":\"a\"}@\n\n>>> 403\nDate: @now@"}, ""},
	{"expired token, other status", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"exp\":1772300000}@\n\n>>> 404\nDate: @now@"}, ""},
	{"expired token, too large", "jwt-", []string{"POST https://a.test/\nAuthorization: Bearer @jwt{\"exp\":1772300000}@\n\n>>> 413\nDate: @now@"}, ""},
	{"expired token elsewhere", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer opaque-opaque-1\nCookie: consent=@jwt{\"exp\":1772300000}@\n\n>>> 403\nDate: @now@"}, ""},
	{"expired only by our clock", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"exp\":1772300000}@\n\n>>> 401\nDate: Sat, 28 Feb 2026 17:00:00 GMT"}, ""},
	{"opaque token", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer abc.def.ghi\n\n>>> 401\n"}, ""},
	{"encrypted token", "jwt-", []string{"GET https://a.test/\nAuthorization: Bearer eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aXY.Y2lwaGVy.dGFn\n\n>>> 401\n"}, ""},
	{"token of google", "token-type-wrong", []string{"GET https://a.run.app/\nAuthorization: Bearer @jwt{\"iss\":\"https://accounts.google.com\",\"at_hash\":\"h\",\"exp\":1772370000}@\n\n>>> 403\n"}, ""},
	{"lower-case bearer", "auth-", []string{"GET https://a.test/\nAuthorization: bearer opaque-opaque-1\n\n>>> 403\n"}, ""},
	{"aws scheme", "auth-scheme-wrong", []string{"GET https://a.test/\nAuthorization: AWS4-HMAC-SHA256 Credential=A/20260301/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=ab\nX-Amz-Date: 20260301T120000Z\n\n>>> 403\nDate: @now@"}, ""},
	{"hawk", "auth-", []string{"GET https://a.test/\nAuthorization: Hawk id=\"a\", mac=\"b\"\n\n>>> 403\n"}, ""},
	{"digest", "auth-", []string{"GET https://a.test/\nAuthorization: Digest username=\"a\", nonce=\"b\"\n\n>>> 403\n"}, ""},
	{"basic and 403", "basic-", []string{"GET https://a.test/\nAuthorization: Basic " + base64.StdEncoding.EncodeToString([]byte("bob:secret-of-bob")) + "\n\n>>> 403\n"}, ""},
	{"session cookie is a credential", "auth-missing", []string{"GET https://a.test/\nCookie: sid=abcdefgh1234\n\n>>> 401\nWWW-Authenticate: Bearer"}, ""},
	{"key is a credential", "auth-missing", []string{"GET https://a.test/\nX-Api-Key: abcdefgh1234\n\n>>> 401\nWWW-Authenticate: Key"}, ""},
	{"log line knows no fields", "auth-missing", []string{"GET https://a.test/\nUser-Agent: x\n\n>>> 401\nWWW-Authenticate: Bearer"}, "log"},
	{"scope suffices", "scope-", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"scope\":\"a b\",\"exp\":1772370000}@\n\n>>> 403\nWWW-Authenticate: Bearer scope=\"a\""}, ""},
	{"write scope", "scope-", []string{"POST https://a.test/\nAuthorization: Bearer @jwt{\"scope\":\"orders:read orders:write\",\"exp\":1772370000}@\n\n>>> 403\n"}, ""},
	{"read scope and GET", "scope-", []string{"GET https://a.test/\nAuthorization: Bearer @jwt{\"scope\":\"orders:read\",\"exp\":1772370000}@\n\n>>> 403\n"}, ""},
	{"key in its place", "api-key-", []string{"GET https://a.test/?q=1\nX-Api-Key: abcdefgh1234\n\n>>> 403\n" + readJSON + "\n{\"message\":\"Forbidden\"}"}, ""},
	{"key that the answer names", "api-key-wrong-location", []string{"GET https://a.test/\nX-Api-Key: abcdefgh1234\n\n>>> 401\n" + readJSON + "\n{\"message\":\"Invalid API key in X-API-Key header\"}"}, ""},
	{"fresh link", "store-", []string{"GET https://b.s3.eu-west-1.amazonaws.com/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20260301%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=20260301T115000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=ab\nAccept: */*\n\n>>> 403\nDate: @now@"}, ""},
	{"sas that fits", "store-", []string{"GET https://a.blob.core.windows.net/c/b?sv=2022-11-02&sp=rl&se=2026-04-01&sr=b&spr=https&sig=abc\nAccept: */*\n\n>>> 403\n"}, ""},
	{"sas write with create", "store-", []string{"PUT https://a.blob.core.windows.net/c/b?sv=2022-11-02&sp=c&se=2026-04-01&sr=c&sig=abc\nAccept: */*\n\n>>> 403\n"}, ""},
	{"link that holds", "app-signed", []string{"GET https://a.test/v?expires=1772370000&signature=9f86d081884c7d659a2feaa0c55ad015\nAccept: */*\n\n>>> 403\n"}, ""},
	{"expires without a signature", "app-signed", []string{"GET https://a.test/v?expires=1772300000&page=2\nAccept: */*\n\n>>> 403\n"}, ""},
	{"cookie that came along", "session-", []string{"GET https://a.test/l\nAccept: */*\n\n>>> 200\nSet-Cookie: sid=abcdefgh1234; Path=/; Secure", "GET https://a.test/x\nCookie: sid=abcdefgh1234\n\n>>> 403\n"}, ""},
	{"cookie of another site", "session-", []string{"GET https://ads.test/l\nAccept: */*\n\n>>> 200\nSet-Cookie: sid=abcdefgh1234; Path=/", "GET https://a.test/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"cookie without a meaning", "session-", []string{"GET https://a.test/l\nAccept: */*\n\n>>> 200\nSet-Cookie: theme=abcdefgh1234; Path=/other", "GET https://a.test/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"API with Bearer has no CSRF", "csrf-", []string{"POST https://a.test/x\nAuthorization: Bearer opaque-opaque-1\nOrigin: https://b.test\nContent-Type: application/json\n\n{}\n>>> 403\n"}, ""},
	{"GET has no CSRF", "csrf-", []string{"GET https://a.test/x\nCookie: csrftoken=abcdefghijklmnopqrstuvwxyzABCDEF\nOrigin: https://b.test\n\n>>> 403\n"}, ""},
	{"token that fits", "csrf-", []string{
		"GET https://a.test/f\nCookie: csrftoken=" + djangoSecret + "\n\n>>> 200\nContent-Type: text/html\n\n<input name=csrfmiddlewaretoken value=" + djangoMasked + ">",
		"POST https://a.test/f\nOrigin: https://a.test\nCookie: csrftoken=" + djangoSecret + "\nContent-Type: application/x-www-form-urlencoded\n\ncsrfmiddlewaretoken=" + djangoMasked + "\n>>> 403\n"}, ""},
	{"page without a form", "csrf-token", []string{"GET https://a.test/f\nAccept: */*\n\n>>> 200\nContent-Type: text/html\n\n<p>hi</p>", "POST https://a.test/f\nOrigin: https://a.test\nContent-Type: application/x-www-form-urlencoded\n\na=1\n>>> 403\n"}, ""},
	{"preflight that passes", "cors-", []string{"OPTIONS https://a.test/x\nOrigin: https://b.test\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-a\n\n>>> 204\nAccess-Control-Allow-Origin: https://b.test\nAccess-Control-Allow-Methods: GET,PUT\nAccess-Control-Allow-Headers: X-A", "PUT https://a.test/x\nOrigin: https://b.test\n\n>>> 403\nAccess-Control-Allow-Origin: https://b.test"}, ""},
	{"same origin", "cors-", []string{"GET https://a.test/l\nAccept: */*\n\n>>> 200\nAccess-Control-Allow-Origin: *", "POST https://a.test/x\nOrigin: https://a.test\n\n>>> 403\n"}, ""},
	{"plain OPTIONS", "cors-", []string{"OPTIONS https://a.test/x\nAccept: */*\n\n>>> 405\nAllow: GET"}, ""},
	{"broken connection", "cors-", []string{"PUT https://a.test/x\nOrigin: https://b.test\n\n>>> 0 net::ERR_CONNECTION_RESET"}, ""},
	{"login, then home", "stage-", []string{"POST https://a.test/login\nAccept: */*\n\n>>> 302\nLocation: /", "GET https://a.test/\nAccept: */*\n\n>>> 403\nServer: nginx"}, ""},
	{"many places", "stage-", []string{"GET https://a.test/api/x\nAccept: */*\n\n>>> 200\n", "GET https://a.test/static/x\nAccept: */*\n\n>>> 200\n", "GET https://a.test/admin\nAccept: */*\n\n>>> 403\n"}, ""},
	{"308 keeps the method", "trailing-", []string{"POST https://a.test/x\nAccept: */*\n\n>>> 308\nLocation: /y", "POST https://a.test/y\nAccept: */*\n\n>>> 405\n"}, ""},
	{"redirect on the same host", "auth-header-stripped", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 302\nLocation: /y", "GET https://a.test/y\nAuthorization: Bearer opaque-opaque-1\n\n>>> 401\n"}, ""},
	{"fresh redirect", "client-cached", []string{"GET https://a.test/old\nAccept: */*\n\n>>> 301\nDate: @now@\nLocation: /gone", "GET https://a.test/gone\nAccept: */*\n\n>>> 404\n"}, ""},
	{"redirect to a page", "session-", []string{"GET https://a.test/x\nCookie: sid=abcdefgh1234\n\n>>> 302\nLocation: /x/5"}, ""},
	{"the login page itself", "session-", []string{"POST https://a.test/login\nCookie: sid=abcdefgh1234\n\n>>> 302\nLocation: /login?error=1"}, ""},
	{"miss", "cdn-cached", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 403\nX-Cache: Miss from cloudfront\nCF-Cache-Status: DYNAMIC\nAge: 0"}, ""},
	{"error from the edge", "cdn-cached", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 403\nX-Cache: Error from cloudfront"}, ""},
	{"requests left", "rate-", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 403\nX-RateLimit-Remaining: 42"}, ""},
	{"one refused after one", "rate-", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 200\n", "GET https://a.test/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"by turns", "rate-", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 200\n", "GET https://a.test/x\nAccept: */*\n\n>>> 403\n", "GET https://a.test/x\nAccept: */*\n\n>>> 200\n", "GET https://a.test/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"usual cookies", "header-", []string{"GET https://a.test/x\nCookie: a=" + strings.Repeat("x", 900) + "\n\n>>> 400\nServer: nginx"}, ""},
	{"small body", "body-too", []string{"POST https://a.test/x\nContent-Length: 10\n\n0123456789\n>>> 413\n"}, ""},
	{"good JSON", "body-", []string{"POST https://a.test/x\nContent-Type: application/json\n\n{\"a\":[1,2,{\"b\":null}]}\n>>> 400\n"}, ""},
	{"good XML", "body-", []string{"POST https://a.test/x\nContent-Type: text/xml\n\n<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a xmlns=\"u\"><b c=\"1\"/>&lt;</a>\n>>> 400\n"}, ""},
	{"good multipart", "body-", []string{"POST https://a.test/x\nContent-Type: multipart/form-data; boundary=x\n\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n\n>>> 400\n"}, ""},
	{"good form", "body-", []string{"POST https://a.test/x\nContent-Type: application/x-www-form-urlencoded\n\na=1&b=%41\n>>> 400\n"}, ""},
	{"binary", "body-", []string{"POST https://a.test/x\nContent-Type: application/octet-stream\n\n\x00\xff\xfe\n>>> 400\n"}, ""},
	{"typed right", "content-type", []string{"POST https://a.test/x\nContent-Type: application/json\n\n{}\n>>> 400\n"}, ""},
	{"accepts everything", "accept-", []string{"GET https://a.test/x\nAccept: text/html, */*;q=0.8\n\n>>> 406\n"}, ""},
	{"allow lists it", "method-not-allowed", []string{"PUT https://a.test/x\nAccept: */*\n\n>>> 405\nAllow: GET, PUT"}, ""},
	{"403 for POST", "method-", []string{"POST https://a.test/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"other objects pass", "wrong-path", []string{"GET https://a.test/users/5\nAccept: */*\n\n>>> 200\n", "GET https://a.test/users/6\nAccept: */*\n\n>>> 403\n"}, ""},
	{"plus and tilde", "path-", []string{"GET https://a.test/~bob/a+b%20c/x\nAccept: */*\n\n>>> 403\n"}, ""},
	{"colon in a path", "wrong-path", []string{"GET https://a.test/v1/projects:list\nAccept: */*\n\n>>> 403\n"}, ""},
	{"another host, another path", "host-", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 200\n", "GET https://b.test/y\nAccept: */*\n\n>>> 403\n"}, ""},
	{"http on port 80", "plain-", []string{"GET http://a.test/x\nAccept: */*\n\n>>> 400\n"}, ""},
	{"own image", "hotlink-", []string{"GET https://cdn.a.test/x.jpg\nReferer: https://www.a.test/p\n\n>>> 403\n"}, ""},
	{"socket of its own page", "websocket-", []string{"GET https://a.test/live\nUpgrade: websocket\nOrigin: https://a.test\n\n>>> 403\n"}, ""},
	{"grpc is well", "grpc-", []string{"POST https://a.test/pkg.S/M\nContent-Type: application/grpc\n\n>>> 200\nGrpc-Status: 0"}, ""},
	{"GraphQL is well", "graphql-", []string{"POST https://a.test/graphql\nContent-Type: application/json\n\n{}\n>>> 200\n" + readJSON + "\n{\"data\":{\"a\":1}}"}, ""},
	{"GraphQL with another fault", "graphql-", []string{"POST https://a.test/graphql\nContent-Type: application/json\n\n{}\n>>> 200\n" + readJSON + "\n{\"data\":null,\"errors\":[{\"message\":\"x\",\"extensions\":{\"code\":\"BAD_USER_INPUT\"}}]}"}, ""},
	{"bare words of an application", "", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 403\n" + readJSON + "\n{\"message\":\"Forbidden\",\"status\":403,\"path\":\"/x\",\"permissions_url\":\"/p\"}"}, ""},
	{"access denied", "", []string{"GET https://a.test/x\nAuthorization: Bearer opaque-opaque-1\n\n>>> 403\n" + readJSON + "\n{\"error\":\"access_denied\",\"message\":\"Access is denied\"}"}, ""},
	{"words in a page", "", []string{"GET https://a.test/x\nAccept: */*\n\n>>> 403\nContent-Type: text/html\n\n<p>You do not have permission. Rate limit. Maintenance.</p>"}, ""},
	{"sealed for good", "", []string{"GET https://a.test/x\nAuthorization: Bearer ‹secret:00000000 len=40›\n\n>>> 403\n"}, ""},
}

// djangoSecret and djangoMasked stand for the same secret: the mask is all a, which shifts by nothing.
var (
	djangoSecret = "abcdefghijklmnopqrstuvwxyzABCDEF"
	djangoMasked = strings.Repeat("a", 32) + djangoSecret
)

func TestReadIsQuiet(t *testing.T) {
	for _, row := range readWithout {
		t.Run(row.name, func(t *testing.T) {
			c := readCase(t, row.with...)
			if row.source != "" {
				c.Source = row.source
			}
			secrets := readSealed(c)
			clues := Read(c, readNow)
			readCheck(t, clues, secrets)
			for _, got := range readCauses(clues, Fair) {
				if strings.HasPrefix(got, row.cause) {
					t.Errorf("%s is wrong:\n%s", got, readText(clues))
				}
			}
		})
	}
}

// TestReadAlone reads what was sent before there is an answer.
func TestReadAlone(t *testing.T) {
	c := readCase(t, "GET https://a.test/\nAuthorization: Bearer @jwt{\"exp\":1772300000}@")
	c.Source, c.Exchanges[0].At = "curl", time.Time{}
	if got := readCauses(Read(c, readNow), Fair); !slices.Equal(got, []string{"jwt-expired"}) {
		t.Errorf("got %v", got)
	}
	if got := readCauses(Read(c, time.Unix(1772290000, 0)), Fair); len(got) > 0 {
		t.Errorf("before it expires: %v", got)
	}
	if got := Read(&Case{Asked: 3}, readNow); got != nil {
		t.Errorf("no exchange: %v", got)
	}
	if got := Read(&Case{Exchanges: []Exchange{{}}}, readNow); len(got) > 0 {
		t.Errorf("an empty exchange: %v", got)
	}
}

// TestReadLine takes a line of an access log without a URL: its clues are those of Attribute, its hops are shown.
func TestReadLine(t *testing.T) {
	c := &Case{Source: "log", Asked: -1, Line: &LogLine{Format: "haproxy", Status: 403, Upstream: "-", Fields: map[string]string{"termination": "PR--", "server": "<NOSRV>"}}}
	if clues := Read(c, readNow); len(readCauses(clues, Fair)) > 0 {
		t.Errorf("%s", readText(clues))
	}
	if hops := Hops(c); len(hops) != 2 || hops[1].Product != "haproxy" || !hops[1].Refused {
		t.Errorf("hops %+v", hops)
	}
	c.Line.Upstream = "403"
	if hops := Hops(c); len(hops) != 3 || hops[1].Refused || hops[2].Kind != "application" {
		t.Errorf("handed on: %+v", hops)
	}
}
