package apache

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/whygate/whygate/pinpoint"
)

// unknownUser stands for a user whose name is sealed.
const unknownUser = "\x00sealed"

// basic is mod_auth_basic with mod_authn_file: it finds r.user or refuses.
func (r *request) basic() *refusal {
	s := r.scope
	kind := lower(s.setting("authtype"))
	at := s.place("authtype")
	given := r.header.Value("Authorization")
	if kind != "basic" {
		if kind == "digest" && given == "" {
			return r.refuse(401, r.missing(at, "Digest"))
		}
		if !r.doubt("whether AuthType "+cut(kind, 40)+" identifies a user", at) {
			return r.refuse(401, r.missing(at, kind))
		}
		r.user = unknownUser
		return nil
	}
	if s.set["authname"] == nil {
		c := r.clue("", pinpoint.Hint, at)
		c.Says = "AuthType Basic at " + placeText(at) + " has no AuthName, so httpd answers 500."
		return r.refuse(500, c)
	}
	if given == "" {
		return r.refuse(401, r.missing(at, "Basic"))
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(given), " ")
	if !strings.EqualFold(scheme, "basic") {
		c := r.clue("auth-scheme-wrong", pinpoint.Certain, at)
		c.Says = "AuthType Basic at " + placeText(at) + " needs the scheme Basic, and Authorization has another one."
		c.Fix = []string{"Send Authorization: Basic with the user and the password."}
		if len(scheme) < 20 && !strings.Contains(scheme, "‹") && strings.EqualFold(scheme, "bearer") {
			c.Fix = append(c.Fix, "If the token is for the application behind, take AuthType Basic off this path.")
		}
		return r.refuse(401, c)
	}
	if strings.Contains(given, "‹secret:") {
		if !r.doubt("whether the password of the sealed credential is right", at) {
			return r.refuse(401, r.wrong("the credential is sealed, so it was not compared", pinpoint.Hint, ""))
		}
		r.user = unknownUser
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(rest), "="))
		user, password, ok = strings.Cut(string(raw), ":")
	}
	if err != nil || !ok || user == "" {
		return r.refuse(401, r.wrong("the credential is not the base64 of user:password", pinpoint.Certain, ""))
	}
	for _, p := range words(s.rawSetting("authbasicprovider")) {
		if lower(p) != "file" {
			if !r.doubt("whether the provider "+cut(p, 40)+" knows the user and the password", s.place("authbasicprovider")) {
				return r.refuse(401, r.wrong("the provider "+cut(p, 40)+" was not asked", pinpoint.Hint, user))
			}
			r.user = user
			return nil
		}
	}
	d := s.set["authuserfile"]
	if d == nil {
		c := r.clue("", pinpoint.Hint, at)
		c.Says = "AuthType Basic at " + placeText(at) + " has no AuthUserFile, so httpd answers 500."
		return r.refuse(500, c)
	}
	file := r.c.path(d.arg(0))
	r.open(pinpoint.Access{Path: file, Want: "read", Says: "AuthUserFile", At: d.at})
	data, err := r.c.files.ReadFile(file)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			c := r.clue("basic-credentials-wrong", pinpoint.Fair, d.at)
			c.Says = "The AuthUserFile " + file + " cannot be read (" + brief(err) + "), so no password is right; httpd answers 500."
			c.Names["path"] = file
			c.Fix = []string{"Put the file there, readable for the user of httpd only: htpasswd -c " + file + " USER."}
			return r.refuse(500, c)
		}
		if !r.doubt("whether "+file+" has this user and password", d.at) {
			return r.refuse(401, r.wrong(file+" could not be read", pinpoint.Hint, user))
		}
		r.user = user
		return nil
	}
	hash, found := "", false
	for l := range strings.Lines(string(data)) {
		l = strings.TrimSpace(l)
		if name, h, ok := strings.Cut(l, ":"); ok && l[0] != '#' && name == user {
			hash, _, _ = strings.Cut(h, ":")
			found = true
			break
		}
	}
	if !found {
		return r.refuse(401, r.wrong("the user is not in "+file, pinpoint.Certain, user))
	}
	right, known := verify(hash, password)
	if !known {
		right = r.doubt("whether the password is right; its hash in "+file+" is of a kind that is not computed here", d.at)
	}
	if !right {
		return r.refuse(401, r.wrong("the user is in "+file+", but the password differs", pinpoint.Certain, user))
	}
	r.user = user
	r.step(d.at, "the user and the password are right")
	return nil
}

// rawSetting is all of a plain directive.
func (s *scope) rawSetting(name string) string {
	if d := s.set[name]; d != nil {
		return d.raw
	}
	return ""
}

func (r *request) missing(at pinpoint.Place, scheme string) pinpoint.Clue {
	c := r.clue("auth-missing", pinpoint.Certain, at)
	c.Says = "AuthType " + cut(scheme, 40) + " at " + placeText(at) + " asks for a credential, and none came. httpd logs nothing for that."
	c.Names["directive"] = "AuthType " + cut(scheme, 40)
	c.Fix = []string{"Send the credential: Authorization with the scheme " + cut(scheme, 40) + "."}
	return c
}

func (r *request) wrong(why string, weight float64, user string) pinpoint.Clue {
	at := r.scope.place("authuserfile")
	if at.File == "" {
		at = r.scope.place("authtype")
	}
	c := r.clue("basic-credentials-wrong", weight, at)
	c.Says = "The credential was refused: " + why + " (" + placeText(at) + ")."
	if user != "" {
		c.Names["user"] = cut(user, 60)
	}
	if d := r.scope.set["authuserfile"]; d != nil {
		c.Names["path"] = r.c.path(d.arg(0))
		c.Fix = []string{"Use the right password, or set it anew: htpasswd -B " + r.c.path(d.arg(0)) + " USER."}
	}
	return c
}

// verify compares a password with a hash of htpasswd: bcrypt, apr1, {SHA}, or plain crypt (not known).
// https://httpd.apache.org/docs/2.4/misc/password_encryptions.html
func verify(hash, password string) (right, known bool) {
	switch {
	case strings.HasPrefix(hash, "$2"):
		if len(hash) > 7 && (hash[4] > '1' || hash[4] == '1' && hash[5] > '4') {
			return false, false // too costly to compute for a diagnosis
		}
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
		if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false, len(password) <= 72
		}
		return err == nil, true
	case strings.HasPrefix(hash, "$apr1$"):
		salt, _, _ := strings.Cut(hash[6:], "$")
		if len(password) > 4096 {
			return false, false
		}
		return equal(apr1(password, salt), hash), true
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password))
		return equal(base64.StdEncoding.EncodeToString(sum[:]), hash[5:]), true
	}
	return false, false
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// apr1 is the MD5 scheme of htpasswd: crypt-MD5 with another magic.
func apr1(password, salt string) string {
	const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if len(salt) > 8 {
		salt = salt[:8]
	}
	p, s := []byte(password), []byte(salt)
	inner := md5.Sum(join(p, s, p))
	h := md5.New()
	h.Write(p)
	h.Write([]byte("$apr1$"))
	h.Write(s)
	for n := len(p); n > 0; n -= 16 {
		h.Write(inner[:min(16, n)])
	}
	for n := len(p); n > 0; n >>= 1 {
		if n&1 == 1 {
			h.Write([]byte{0})
		} else if len(p) > 0 {
			h.Write(p[:1])
		}
	}
	sum := h.Sum(nil)
	for i := range 1000 {
		h.Reset()
		if i&1 == 1 {
			h.Write(p)
		} else {
			h.Write(sum)
		}
		if i%3 != 0 {
			h.Write(s)
		}
		if i%7 != 0 {
			h.Write(p)
		}
		if i&1 == 1 {
			h.Write(sum)
		} else {
			h.Write(p)
		}
		sum = h.Sum(nil)
	}
	var b strings.Builder
	b.WriteString("$apr1$" + salt + "$")
	put := func(v uint, n int) {
		for range n {
			b.WriteByte(alphabet[v&0x3f])
			v >>= 6
		}
	}
	for _, t := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		put(uint(sum[t[0]])<<16|uint(sum[t[1]])<<8|uint(sum[t[2]]), 4)
	}
	put(uint(sum[11]), 2)
	return b.String()
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// inGroup looks a user up in AuthGroupFile.
func (r *request) inGroup(groups []string, at *directive) authResult {
	d := r.scope.set["authgroupfile"]
	if d == nil {
		return denied
	}
	if r.user == unknownUser {
		return is(r.doubt("whether the user is in one of the groups "+cut(strings.Join(groups, " "), 80), at.at))
	}
	file := r.c.path(d.arg(0))
	r.open(pinpoint.Access{Path: file, Want: "read", Says: "AuthGroupFile", At: d.at})
	data, err := r.c.files.ReadFile(file)
	if err != nil {
		return denied
	}
	for l := range strings.Lines(string(data)) {
		name, members, ok := strings.Cut(strings.TrimSpace(l), ":")
		if !ok {
			continue
		}
		for _, g := range groups {
			if g != name {
				continue
			}
			for _, m := range strings.Fields(members) {
				if m == r.user {
					return granted
				}
			}
		}
	}
	return denied
}
