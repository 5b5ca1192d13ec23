package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// countries is a database for the policy geo; TestMain takes it away.
var countries = sync.OnceValue(func() string {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	if err != nil {
		panic(err)
	}
	for cidr, code := range map[string]string{"203.0.113.0/24": "FR", "198.51.100.0/29": "FR", "10.0.0.0/8": "DE"} {
		_, network, _ := net.ParseCIDR(cidr)
		if err := tree.Insert(network, mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}); err != nil {
			panic(err)
		}
	}
	file, err := os.CreateTemp("", "country-*.mmdb")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if _, err := tree.WriteTo(file); err != nil {
		panic(err)
	}
	countriesMade = true
	return file.Name()
})

var countriesMade bool

// networkRefusals provoke the reasons of policies that look at where a call comes from.
func networkRefusals(t *testing.T) []refusal {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("a hidden secret of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	geo := func(lists string) string { return "  - geo: {database: [" + countries() + "], " + lists + "}" }
	proxy, france := "  trustedProxies: [127.0.0.1]", []string{"X-Forwarded-For: 203.0.113.7"}
	bot := "  - bot: {deny: [hidden-bot], missing: deny}"
	hotlink := "  - hotlink: {hosts: [hidden.test], empty: deny}"
	csrf := "  - csrf: {session: sid, secret: {file: " + secret + "}}"
	sends := func(cookie, header string) []string {
		return []string{"Cookie: sid=ann; csrf_token=" + cookie, "X-CSRF-Token: " + header}
	}
	now := time.Now()
	good, other := csrfToken(now, "1", "ann"), csrfToken(now, "2", "ann")
	old, bobs, forged := csrfToken(now.Add(-13*time.Hour), "3", "ann"), csrfToken(now, "4", "bob"), strings.Repeat("A", 64)
	return []refusal{
		{code: "geo.denied", gateway: proxy, policies: geo("deny: [FR, HU]"), header: france},
		{code: "geo.not-allowed", gateway: proxy, policies: geo("allow: [DE]"), header: france},
		{code: "geo.unknown", policies: geo("allow: [DE]")},
		{code: "bot.denied", policies: bot, header: []string{"User-Agent: a hidden-bot"}},
		{code: "bot.no-user-agent", policies: bot, send: "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{code: "hotlink.foreign", policies: hotlink, header: []string{"Referer: https://evil.test/"}},
		{code: "hotlink.empty", policies: hotlink},
		{code: "cors.private-network", policies: "  - cors: {origins: [\"https://hidden.test\"]}", method: "OPTIONS",
			header: []string{"Origin: https://hidden.test", "Access-Control-Request-Method: GET", "Access-Control-Request-Private-Network: true"}},
		{code: "content.too-large", policies: "  - csrf: {maxBody: 1KiB}", method: "POST", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: strings.Repeat("x", 2000)},
		{code: "csrf.foreign-origin", policies: csrf, method: "POST", header: []string{"Origin: https://evil.test"}},
		{code: "csrf.missing-cookie", policies: csrf, method: "POST"},
		{code: "csrf.missing-token", policies: csrf, method: "POST", header: []string{"Cookie: sid=ann; csrf_token=" + good}},
		{code: "csrf.mismatch", policies: csrf, method: "POST", header: sends(good, other)},
		{code: "csrf.expired", policies: csrf, method: "POST", header: sends(old, old)},
		{code: "csrf.other-session", policies: csrf, method: "POST", header: sends(bobs, bobs)},
		{code: "csrf.bad-signature", policies: csrf, method: "POST", header: sends(forged, forged)},
	}
}

// csrfToken makes a token from its description: time, chance, and two MACs.
func csrfToken(at time.Time, chance, session string) string {
	head := binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))
	head = append(head, (chance + "_______")[:8]...)
	sign := func(purpose byte, texts ...string) []byte {
		m := hmac.New(sha256.New, []byte("a hidden secret of some length"))
		m.Write(append([]byte{purpose}, head...))
		for _, text := range texts {
			m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
			m.Write([]byte(text))
		}
		return m.Sum(nil)[:16]
	}
	return base64.RawURLEncoding.EncodeToString(append(append(head[:16:16], sign('t')...), sign('b', session, "", "")...))
}
