package pinpoint

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// amzTime is the form of X-Amz-Date and X-Goog-Date.
const amzTime = "20060102T150405Z"

var (
	bodyRegion    = regexp.MustCompile(`<Region>([a-z0-9-]{4,24})</Region>|expecting '([a-z0-9-]{4,24})'`)
	bodyHost      = regexp.MustCompile(`(?m)^host:([A-Za-z0-9.:-]{1,253})\r?$`)
	bodyExpired   = regexp.MustCompile(`(?i)request has expired|signature (?:has )?expired|expiredtoken|url has expired|link (?:has )?expired|signature not valid in the specified time frame`)
	hostRegion    = regexp.MustCompile(`(?:^|\.)(?:s3|dynamodb|sqs|sns|execute-api|lambda|es|aoss)[.-]([a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d)\.amazonaws\.com(?:\.cn)?$`)
	namesASignKey = regexp.MustCompile(`(?i)^[a-z0-9-]+$`)
)

// awsSignature is a Signature Version 4, from the query or from Authorization.
type awsSignature struct {
	inQuery                                        bool
	keyID, day, region, service, date, alg, signed string
	expires                                        time.Duration
}

// expired says that a link's time is over. The answer may name it.
func (r *reading) expired(cause, what string, at time.Time) {
	late := r.when.Sub(at)
	if late <= 0 || !r.maybe(400, 401, 403, 404, 410) {
		return
	}
	weight, from := Strong, FromRequest
	switch {
	case r.in(404, 400):
		weight = Fair
	case late < 10*time.Second && !r.dated:
		weight = Fair
	}
	says := fmt.Sprintf("%s was valid until %s; the request came %s after that.", what, clockTime(at), spanOf(late))
	if r.in(400, 401, 403, 410) && bodyExpired.Match(r.page[:min(len(r.page), 8192)]) {
		weight, from = Certain, FromAnswer
		says += " The answer says so too."
	}
	r.say(from, cause, weight, says, "expired", clockTime(at))
}

// signature reads AWS Signature Version 4 in the query or in Authorization, its forms for Google
// Cloud Storage, and Signature Version 2 (AWS: Signing AWS API requests; Google: Signed URLs).
func (r *reading) signature() {
	if !r.maybe(301, 400, 401, 403) || r.url == nil {
		return
	}
	var s awsSignature
	vendor := "X-Amz-"
	if _, ok := r.param("X-Goog-Algorithm"); ok {
		vendor = "X-Goog-"
	}
	get := func(name string) string { v, _ := r.param(vendor + name); return v }
	s.alg = get("Algorithm")
	switch {
	case s.alg != "":
		s.inQuery, s.date, s.signed = true, get("Date"), get("SignedHeaders")
		s.scope(get("Credential"))
		seconds, err := strconv.Atoi(get("Expires"))
		if err != nil || seconds < 0 || seconds > 1<<28 {
			if get("Expires") != "" && !stillSealed(get("Expires")) {
				r.say(FromRequest, "auth-signature-invalid", Strong, vendor+"Expires is not a number of seconds.", "field", vendor+"Expires")
			}
			seconds = -1
		}
		s.expires = time.Duration(seconds) * time.Second
		if seconds > 604800 {
			r.say(FromRequest, "auth-signature-invalid", Strong, vendor+"Expires is more than a week (604800 s), the most that is allowed.", "field", vendor+"Expires")
		}
	case strings.HasPrefix(r.auth, "AWS4-"):
		alg, rest, _ := strings.Cut(r.auth, " ")
		s.alg, s.expires = alg, -1
		for part := range strings.SplitSeq(rest, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch name {
			case "Credential":
				s.scope(value)
			case "SignedHeaders":
				s.signed = value
			}
		}
		s.date = r.value("X-Amz-Date")
	default:
		r.signatureV2()
		return
	}
	if s.inQuery && vendor == "X-Amz-" && strings.HasPrefix(r.auth, "AWS4-") {
		r.say(FromRequest, "auth-signature-invalid", Strong, "The request is signed twice, in the query and in Authorization; one is allowed.", "header", "Authorization")
	}
	store := s.service == "s3" || vendor == "X-Goog-"
	skewed, mismatch := "client-clock-skew", "auth-signature-invalid"
	if store {
		skewed, mismatch = "store-time-skewed", "store-signature-mismatch"
	}
	if at, err := time.Parse(amzTime, s.date); err == nil {
		switch {
		case s.inQuery && s.expires >= 0:
			r.expired("store-url-expired", "The signed link", at.Add(s.expires))
			if at.Sub(r.when) > 15*time.Minute && r.maybe(400, 403) {
				r.say(FromRequest, "store-time-skewed", Strong, fmt.Sprintf("The link was signed %s ahead of the server's clock.", spanOf(at.Sub(r.when))), "field", vendor+"Date")
			}
		case !s.inQuery && r.dated:
			limit := 5 * time.Minute
			if store {
				limit = 15 * time.Minute
			}
			if d := r.when.Sub(at); max(d, -d) > limit {
				r.say(FromRequest, skewed, Strong, fmt.Sprintf("X-Amz-Date is %s away from the server's Date; at most %s is allowed.", spanOf(d), spanOf(limit)), "field", "X-Amz-Date")
			}
		}
		if s.day != "" && at.UTC().Format("20060102") != s.day && len(s.day) == 8 {
			r.say(FromRequest, "auth-signature-invalid", Strong, fmt.Sprintf("The day in the credential scope (%s) is not that of %sDate.", shown(s.day), vendor), "field", vendor+"Credential")
		}
	}
	r.regions(s)
	if r.whole && s.signed != "" && len(s.signed) < 2000 && r.maybe(400, 403) {
		for name := range strings.SplitSeq(s.signed, ";") {
			if n := strings.ToLower(name); n != "host" && n != "content-length" && namesASignKey.MatchString(n) && !r.req.Header.Has(n) {
				r.say(FromRequest, mismatch, Strong, fmt.Sprintf("The signature covers the field %s, and the request does not carry it.", shown(n)), "header", n)
				break
			}
		}
	}
	if strings.HasPrefix(s.keyID, "ASIA") && r.whole && !r.req.Header.Has("X-Amz-Security-Token") {
		if _, ok := r.param("X-Amz-Security-Token"); !ok {
			r.say(FromRequest, "store-key-id-unknown", Strong, "The key is a temporary one (ASIA…) and the session token that belongs to it, X-Amz-Security-Token, lacks.", "header", "X-Amz-Security-Token")
		}
	}
	if m := bodyHost.FindSubmatch(r.page[:min(len(r.page), maxReadText)]); m != nil && r.in(403) && strings.Contains(string(r.page[:min(len(r.page), maxReadText)]), "SignatureDoesNotMatch") {
		if got := strings.ToLower(string(m[1])); hostOnly(got) != r.host {
			r.say(FromAnswer, "store-signature-mismatch", Certain, fmt.Sprintf("The store computed the signature for the host %s; the request was signed for %s: a proxy on the way changed Host.", shown(got), shown(r.host)), "host", got)
		}
	}
}

// scope takes KEY/20260101/region/service/aws4_request apart.
func (s *awsSignature) scope(credential string) {
	parts := strings.Split(credential, "/")
	if n := len(parts); n >= 5 && !stillSealed(credential) {
		s.keyID, s.day, s.region, s.service = parts[0], parts[n-4], parts[n-3], parts[n-2]
	}
}

// regions compares the region that was signed for with the one that the host and the answer name.
func (r *reading) regions(s awsSignature) {
	if s.region == "" || s.region == "auto" || s.region == "*" || len(s.region) > 24 {
		return
	}
	wrong := func(from Source, weight float64, where, region string) {
		r.say(from, "store-wrong-endpoint", weight, fmt.Sprintf("The request is signed for the region %s; %s names %s.", shown(s.region), where, shown(region)), "region", region)
	}
	if r.known && r.status < 400 && r.status != 301 {
		return
	}
	if m := bodyRegion.FindSubmatch(r.page[:min(len(r.page), 8192)]); m != nil {
		if got := string(m[1]) + string(m[2]); got != s.region {
			wrong(FromAnswer, Certain, "the answer", got)
			return
		}
	}
	if got := r.ans.Header.Value("X-Amz-Bucket-Region"); got != "" && got != s.region {
		wrong(FromAnswer, Strong, "X-Amz-Bucket-Region", got)
		return
	}
	if m := hostRegion.FindStringSubmatch(r.host); m != nil && m[1] != s.region {
		cause := "store-wrong-endpoint"
		if s.service != "s3" {
			cause = "auth-signature-invalid"
		}
		r.say(FromRequest, cause, Strong, fmt.Sprintf("The request is signed for the region %s and sent to a host of %s.", shown(s.region), shown(m[1])), "region", m[1])
	}
}

// signatureV2 reads the older signed links of S3 and Google Cloud Storage.
func (r *reading) signatureV2() {
	_, aws := r.param("AWSAccessKeyId")
	_, google := r.param("GoogleAccessId")
	if v, ok := r.param("Expires"); ok && (aws || google) {
		if at, ok := epochTime(v); ok {
			r.expired("store-url-expired", "The signed link", at)
		}
	}
}

// sharedAccess reads a shared access signature of Azure Storage (Microsoft: Create a service SAS,
// Create an account SAS).
func (r *reading) sharedAccess() {
	if r.url == nil || !r.maybe(400, 403, 404, 409) {
		return
	}
	get := func(name string) string { v, _ := r.param(name); return v }
	if get("sig") == "" || get("sv") == "" {
		return
	}
	account := get("ss") != "" && get("srt") != ""
	named, from := Strong, FromRequest
	if code := r.ans.Header.Value("X-Ms-Error-Code"); r.in(403) && strings.HasPrefix(code, "Authorization") && strings.HasSuffix(code, "Mismatch") {
		named, from = Certain, FromAnswer // the store names the kind of fault, the link shows which
	}
	if at, ok := sasTime(get("se")); ok {
		r.expired("store-url-expired", "The shared access signature", at)
	}
	if at, ok := sasTime(get("st")); ok && at.Sub(r.when) > 0 && r.maybe(403) {
		r.say(FromRequest, "store-time-skewed", Strong, fmt.Sprintf("The shared access signature is valid only from %s, %s from then (st).", clockTime(at), spanOf(at.Sub(r.when))), "field", "st")
	}
	if get("spr") == "https" && r.url.Scheme == "http" {
		r.say(FromRequest, "https-required", Strong, "The shared access signature allows https only (spr=https), and the URL is http.", "field", "spr")
	}
	if ip := get("sip"); ip != "" && r.in(403) {
		r.say(FromRequest, "network-acl-denied", Hint, "The shared access signature is bound to an address or a range (sip).", "field", "sip")
	}
	if !r.maybe(403) {
		return
	}
	comp := strings.ToLower(get("comp"))
	need := ""
	switch strings.ToUpper(r.req.Method) {
	case "GET", "HEAD":
		if need = "r"; comp == "list" {
			need = "l"
		} else if comp == "tags" {
			need = "t"
		}
	case "PUT":
		if need = "wc"; comp == "appendblock" {
			need = "wa"
		} else if comp == "tags" {
			need = "t"
		}
	case "DELETE":
		need = "dxy"
	}
	if strings.Contains(r.host, ".queue.") || strings.Contains(r.host, ".table.") {
		need = ""
	}
	if sp := get("sp"); sp != "" && need != "" && !strings.ContainsAny(sp, need) && len(sp) < 20 && get("si") == "" {
		r.say(from, "store-sas-scope", named, fmt.Sprintf("The shared access signature allows %q (sp); %s needs %q.", shown(sp), shown(r.req.Method), need[:1]), "field", "sp")
	}
	if account {
		services := map[string]string{".blob.": "b", ".file.": "f", ".queue.": "q", ".table.": "t", ".dfs.": "b"}
		for part, letter := range services {
			if strings.Contains(r.host, part) && !strings.Contains(get("ss"), letter) {
				r.say(from, "store-sas-scope", named, fmt.Sprintf("The shared access signature is for the services %q (ss), not for this one (%s).", shown(get("ss")), letter), "field", "ss")
			}
		}
		depth := len(strings.FieldsFunc(r.url.Path, func(c rune) bool { return c == '/' }))
		if depth >= 2 && comp != "list" && strings.Contains(r.host, ".blob.") && !strings.Contains(get("srt"), "o") {
			r.say(from, "store-sas-scope", named, fmt.Sprintf("The shared access signature is for the resource types %q (srt); an object needs o.", shown(get("srt"))), "field", "srt")
		}
	}
}

// sasTime reads the forms of se and st.
func sasTime(s string) (time.Time, bool) {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(form, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// signedURL reads signed links of CDNs and of applications.
func (r *reading) signedURL() {
	if r.url == nil || !r.maybe(401, 403, 404, 410) {
		return
	}
	r.cloudFront()
	for _, p := range r.query {
		switch strings.ToLower(p.name) {
		case "hdnts", "hdnea", "__token__", "__gda__":
			// Akamai: Token Authentication 2.0, fields joined by ~.
			for part := range strings.SplitSeq(p.value, "~") {
				if v, ok := strings.CutPrefix(part, "exp="); ok {
					if at, ok := epochTime(v); ok {
						r.expired("cdn-signed-url-invalid", "The edge token", at)
					}
				}
			}
		}
	}
	if _, ok := r.param("Key-Pair-Id"); ok {
		return
	}
	for _, name := range []string{"AWSAccessKeyId", "GoogleAccessId", "sv", "X-Amz-Signature"} {
		if _, ok := r.param(name); ok {
			return
		}
	}
	sign := ""
	for _, name := range []string{"signature", "sig", "hmac", "hash", "md5", "st", "sign", "token"} {
		if v, ok := r.param(name); ok && len(v) >= 16 {
			sign = name
			break
		}
	}
	if sign == "" {
		return
	}
	for _, name := range []string{"expires", "exp", "e", "expiry", "expire", "valid_until", "validuntil"} {
		v, ok := r.param(name)
		at, read := epochTime(v)
		if !ok || !read {
			continue
		}
		if sign == "md5" || sign == "st" {
			// nginx: ngx_http_secure_link_module; the names are those of its documentation.
			if late := r.when.Sub(at); late > 0 && r.maybe(403, 410) {
				r.say(FromRequest, "nginx-secure-link", Fair, fmt.Sprintf("The link has the form of nginx's secure_link and was valid until %s, %s before.", clockTime(at), spanOf(late)), "field", name)
			}
		}
		r.expired("app-signed-url-invalid", "The signed link", at)
		return
	}
}

// cloudFront reads signed URLs and signed cookies (AWS: Serving private content with signed URLs).
func (r *reading) cloudFront() {
	get := func(name string) string {
		if v, ok := r.param(name); ok {
			return v
		}
		v, _ := r.cookie("CloudFront-" + name)
		return v
	}
	if get("Key-Pair-Id") == "" && get("Policy") == "" || get("Signature") == "" && !r.maybe(403) {
		return
	}
	for _, name := range []string{"Key-Pair-Id", "Signature"} {
		if get(name) == "" && r.in(403) && r.whole {
			r.say(FromRequest, "cdn-signed-url-invalid", Strong, "The signed link lacks "+name+".", "field", name)
		}
	}
	if at, ok := epochTime(get("Expires")); ok {
		r.expired("cdn-signed-url-invalid", "The signed link", at)
	}
	text := strings.NewReplacer("-", "+", "_", "=", "~", "/").Replace(get("Policy"))
	if text == "" || stillSealed(text) || len(text) > maxReadValue {
		return
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	var policy struct {
		Statement []struct {
			Resource  string
			Condition struct {
				DateLessThan, DateGreaterThan struct {
					Epoch float64 `json:"AWS:EpochTime"`
				}
			}
		}
	}
	if err != nil || json.Unmarshal(raw, &policy) != nil || len(policy.Statement) == 0 {
		r.say(FromRequest, "cdn-signed-url-invalid", Strong, "The policy of the signed link cannot be decoded: it was cut or encoded twice.", "field", "Policy")
		return
	}
	s := policy.Statement[0]
	if s.Condition.DateLessThan.Epoch > 0 {
		r.expired("cdn-signed-url-invalid", "The policy of the signed link", epochOf(s.Condition.DateLessThan.Epoch))
	}
	if at := epochOf(s.Condition.DateGreaterThan.Epoch); s.Condition.DateGreaterThan.Epoch > 0 && at.After(r.when) && r.maybe(403) {
		r.say(FromRequest, "cdn-signed-url-invalid", Strong, fmt.Sprintf("The policy of the signed link begins only at %s.", clockTime(at)), "field", "Policy")
	}
	if s.Resource != "" && len(s.Resource) < 2048 && len(r.url.RawQuery)+len(r.url.Path) < 8192 && r.maybe(403) {
		bare := *r.url
		bare.RawQuery = ""
		rest := slices.DeleteFunc(strings.Split(r.url.RawQuery, "&"), func(p string) bool {
			name, _, _ := strings.Cut(p, "=")
			return slices.Contains([]string{"policy", "signature", "key-pair-id", "expires"}, strings.ToLower(name))
		})
		full := bare
		full.RawQuery = strings.Join(rest, "&")
		swap := full
		swap.Scheme = map[string]string{"http": "https", "https": "http"}[full.Scheme]
		match := wildcard(s.Resource, full.String()) || wildcard(s.Resource, strings.TrimPrefix(full.RequestURI(), "/"))
		if !match && wildcard(s.Resource, swap.String()) {
			r.say(FromRequest, "cdn-signed-url-invalid", Strong, "The policy of the signed link is for the other scheme: "+r.url.Scheme+" was used.", "field", "Resource")
		} else if !match {
			r.say(FromRequest, "cdn-signed-url-invalid", Strong, "The resource of the policy does not cover this URL.", "field", "Resource")
		}
	}
}

// wildcard matches * and ? without backtracking more than once per star.
func wildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// clock compares the client's clock with the server's, where that matters: something in the request is
// bound to time.
func (r *reading) clock() {
	ex := &r.near[r.asked]
	if !r.dated || !r.in(400, 401, 403) || r.c.Source == "log" || r.ans.Header.Has("Age") || ex.Answer == nil || ex.Answer.At.IsZero() && ex.At.IsZero() {
		return
	}
	off := r.when.Sub(r.timeOf(ex))
	if max(off, -off) <= 5*time.Minute || max(off, -off) > 10*365*24*time.Hour {
		return
	}
	timed := strings.HasPrefix(r.auth, "AWS4-") || strings.HasPrefix(strings.ToLower(r.auth), "hmac") || r.req.Header.Has("X-Amz-Date") || r.req.Header.Has("Signature-Input") ||
		r.req.Header.Has("X-Timestamp") || r.req.Header.Has("DPoP")
	for _, t := range r.webTokens() {
		_, exp := t.number("exp")
		timed = timed || exp && t.main
	}
	if d, err := http.ParseTime(r.req.Header.Value("Date")); err == nil && max(d.Sub(r.when), r.when.Sub(d)) > 5*time.Minute {
		timed = true
	}
	if timed {
		r.say(FromAnswer, "client-clock-skew", 2.2, fmt.Sprintf("The client's clock is %s away from the server's Date, and the request carries something that is bound to time.", spanOf(off)), "field", "Date")
	}
}
