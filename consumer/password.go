package consumer

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Password is a stored hash of a password: bcrypt, or argon2id in its encoded form
// $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH.
type Password struct {
	bcrypt []byte // or nil
	argon  argon
	cost   string
}

type argon struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

// Bounds of what one comparison may take.
const (
	maxBcryptCost   = 15
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16
)

// ParsePassword reads a hash and refuses those that would keep a node busy for seconds.
func ParsePassword(hash string) (Password, error) {
	if !strings.HasPrefix(hash, "$argon2id$") {
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil || len(hash) != 60:
			return Password{}, errors.New("this is no bcrypt hash, which has 60 characters")
		case cost > maxBcryptCost:
			return Password{}, fmt.Errorf("bcrypt of cost %d takes seconds; at most %d", cost, maxBcryptCost)
		}
		return Password{bcrypt: []byte(hash), cost: fmt.Sprintf("bcrypt of cost %d", cost)}, nil
	}
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return Password{}, errors.New("argon2id hashes have the form $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH")
	}
	var a argon
	var rest string
	if n, _ := fmt.Sscanf(parts[3]+" .", "m=%d,t=%d,p=%d %s", &a.memory, &a.time, &a.threads, &rest); n != 4 || rest != "." {
		return Password{}, errors.New("the parameters of an argon2id hash have the form m=65536,t=3,p=4")
	}
	var err, err2 error
	a.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	a.key, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case err != nil || err2 != nil || len(a.salt) < 8 || len(a.salt) > 64 || len(a.key) < 16 || len(a.key) > 64:
		return Password{}, errors.New("salt and hash of argon2id are in base64 without padding, 8 to 64 and 16 to 64 bytes")
	case a.time < 1 || a.threads < 1 || a.memory < 8*uint32(a.threads) || a.memory > maxArgonMemory || a.time > maxArgonTime || a.threads > maxArgonThreads:
		return Password{}, fmt.Errorf("argon2id takes m up to %d, t up to %d and p up to %d", maxArgonMemory, maxArgonTime, maxArgonThreads)
	}
	return Password{argon: a, cost: "argon2id with " + parts[3]}, nil
}

// Cost says how much work a comparison is: that of two passwords of one cost takes the same time.
func (p *Password) Cost() string { return p.cost }

// Is compares a password. It takes as long for a wrong one.
func (p *Password) Is(password []byte) bool {
	if p.bcrypt != nil {
		return bcrypt.CompareHashAndPassword(p.bcrypt, password) == nil
	}
	a := &p.argon
	key := argon2.IDKey(password, a.salt, a.time, a.memory, a.threads, uint32(len(a.key)))
	return subtle.ConstantTimeCompare(key, a.key) == 1
}

// HashPassword makes the bcrypt hash of a password.
func HashPassword(password string) (string, error) {
	switch {
	case len(password) < 8:
		return "", errors.New("the password has less than 8 bytes")
	case len(password) > 72:
		return "", errors.New("the password has more than the 72 bytes that bcrypt looks at")
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), 11)
	return string(h), err
}

// NewPassword makes a password of 24 characters (140 bits).
func NewPassword() string {
	var b strings.Builder
	writeRandom(&b, 24)
	return b.String()
}
