package nginx

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// verify checks a password against one entry of a password file, in the forms that nginx reads
// (https://nginx.org/en/docs/http/ngx_http_auth_basic_module.html). It is not sure of what the C
// library alone would read.
func verify(hash, password string) (right, sure bool) {
	same := func(a, b []byte) (bool, bool) { return subtle.ConstantTimeCompare(a, b) == 1, true }
	if len(password) > 1024 {
		return false, false
	}
	switch {
	case strings.HasPrefix(hash, "{PLAIN}"):
		return same([]byte(hash[7:]), []byte(password))
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password))
		want, err := base64.StdEncoding.DecodeString(hash[5:])
		if err != nil {
			return false, true
		}
		return same(want, sum[:])
	case strings.HasPrefix(hash, "{SSHA}"):
		want, err := base64.StdEncoding.DecodeString(hash[6:])
		if err != nil || len(want) < sha1.Size {
			return false, true
		}
		sum := sha1.Sum(append([]byte(password), want[sha1.Size:]...))
		return same(want[:sha1.Size], sum[:])
	case strings.HasPrefix(hash, "$apr1$"), strings.HasPrefix(hash, "$1$"):
		parts := strings.SplitN(hash, "$", 4)
		if len(parts) != 4 {
			return false, true
		}
		return same([]byte(md5Crypt(password, parts[2], "$"+parts[1]+"$")), []byte(parts[3]))
	case strings.HasPrefix(hash, "$2"):
		if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost > 12 {
			return false, false
		}
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil, true
	}
	return false, false
}

const cryptDigits = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// md5Crypt is the hash of passwords that FreeBSD brought up as $1$ and Apache uses as $apr1$.
func md5Crypt(password, salt, magic string) string {
	if len(salt) > 8 {
		salt = salt[:8]
	}
	pw := []byte(password)
	inner := md5.Sum([]byte(password + salt + password))
	var b bytes.Buffer
	b.WriteString(password + magic + salt)
	for n := len(pw); n > 0; n -= 16 {
		b.Write(inner[:min(n, 16)])
	}
	for n := len(pw); n > 0; n >>= 1 {
		if n&1 == 1 {
			b.WriteByte(0)
		} else {
			b.WriteByte(pw[0])
		}
	}
	sum := md5.Sum(b.Bytes())
	for i := range 1000 {
		b.Reset()
		if i&1 == 1 {
			b.Write(pw)
		} else {
			b.Write(sum[:])
		}
		if i%3 != 0 {
			b.WriteString(salt)
		}
		if i%7 != 0 {
			b.Write(pw)
		}
		if i&1 == 1 {
			b.Write(sum[:])
		} else {
			b.Write(pw)
		}
		sum = md5.Sum(b.Bytes())
	}
	var out strings.Builder
	digits := func(a, b, c byte, n int) {
		for v := uint(a)<<16 | uint(b)<<8 | uint(c); n > 0; n-- {
			out.WriteByte(cryptDigits[v&63])
			v >>= 6
		}
	}
	for _, t := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		digits(sum[t[0]], sum[t[1]], sum[t[2]], 4)
	}
	digits(0, 0, sum[11], 2)
	return out.String()
}
