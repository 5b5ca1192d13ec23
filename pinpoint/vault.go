package pinpoint

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
)

// Vault keeps the secrets of a case. Everywhere else they are placeholders such as
// ‹secret:3f9c1b2a len=812›: a keyed hash, with a key per run, so that equal secrets look equal.
// Placeholders become secrets again only for what is sent to the target that was named.
type Vault struct {
	mu     sync.Mutex
	key    [32]byte
	values map[string]string // placeholder → secret
	find   *finder           // of these values; see Vault.finder
}

// NewVault has a random key.
func NewVault() *Vault {
	v := &Vault{values: map[string]string{}}
	rand.Read(v.key[:])
	return v
}

// Hide keeps a secret and returns its placeholder. The empty string and placeholders stay.
func (v *Vault) Hide(secret string) string {
	if secret == "" || strings.HasPrefix(secret, opening) && strings.HasSuffix(secret, closing) {
		return secret
	}
	mac := hmac.New(sha256.New, v.key[:])
	mac.Write([]byte(secret))
	sum := mac.Sum(nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	for ; ; sum = sum[4:] {
		p := fmt.Sprintf("%s%s len=%d%s", opening, hex.EncodeToString(sum[:4]), len(secret), closing)
		if other, ok := v.values[p]; !ok || other == secret {
			v.values[p] = secret
			return p
		}
		if len(sum) == 4 { // eight collisions of 32 bits
			mac.Write(mac.Sum(nil))
			sum = append(make([]byte, 4), mac.Sum(nil)...)
		}
	}
}

// Reveal puts the secrets back. Its result must not reach a report, a log or a file.
func (v *Vault) Reveal(text string) string {
	if v == nil || !strings.Contains(text, opening) {
		return text
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	for {
		i := strings.Index(text, opening)
		if i < 0 {
			break
		}
		n := strings.Index(text[i:], closing)
		if n < 0 {
			break
		}
		p := text[i : i+n+len(closing)]
		b.WriteString(text[:i])
		if secret, ok := v.values[p]; ok {
			b.WriteString(secret)
		} else {
			b.WriteString(p)
		}
		text = text[i+len(p):]
	}
	b.WriteString(text)
	return b.String()
}

const opening, closing = "‹secret:", "›"
