package consumer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Keys look like wg_8fK2mQ4z_5tJ…: a mark that secret scanners can learn, eight characters that
// may be shown, and 32 secret ones (190 bits) of an alphabet without look-alikes.
const (
	keyMark      = "wg_"
	keyAlphabet  = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	PrefixLength = len(keyMark) + 8
	KeyLength    = PrefixLength + 1 + 32
)

// NewKey makes a key. It is to be shown once and kept nowhere.
func NewKey() (key, prefix, hash string) {
	var b strings.Builder
	b.WriteString(keyMark)
	writeRandom(&b, 8)
	b.WriteByte('_')
	writeRandom(&b, 32)
	key = b.String()
	return key, key[:PrefixLength], HashKey(key)
}

func writeRandom(b *strings.Builder, n int) {
	buf := make([]byte, 1)
	for n > 0 {
		rand.Read(buf) // never fails, see crypto/rand
		// Bytes above the largest multiple are thrown away, so that all characters are equally likely.
		if limit := 256 - 256%len(keyAlphabet); int(buf[0]) < limit {
			b.WriteByte(keyAlphabet[int(buf[0])%len(keyAlphabet)])
			n--
		}
	}
}

// HashKey is how a key is stored: its SHA-256 in hexadecimal.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// Fingerprint names a key that nobody knows, without telling it: the public prefix of
// a key of our form, otherwise eight characters of its hash.
func Fingerprint(key string) string {
	if len(key) > PrefixLength && strings.HasPrefix(key, keyMark) && key[PrefixLength] == '_' {
		return key[:PrefixLength]
	}
	return "sha256:" + HashKey(key)[:8]
}

// LooksLikeKey says that a text has the form of our keys.
func LooksLikeKey(key string) bool {
	if len(key) != KeyLength || !strings.HasPrefix(key, keyMark) || key[PrefixLength] != '_' {
		return false
	}
	for i := len(keyMark); i < len(key); i++ {
		if i != PrefixLength && strings.IndexByte(keyAlphabet, key[i]) < 0 {
			return false
		}
	}
	return true
}
