package policy

import (
	"slices"
	"strings"
	"unicode"
)

// secretParts are parts of names whose values are nobody's to read, and secretWords are whole words of such names: they
// also stand within harmless ones, such as shipping.
var (
	secretParts = []string{"password", "passwd", "passphrase", "passcode", "pwd", "secret", "token", "apikey", "authorization", "credential", "signature",
		"privatekey", "cookie", "session", "cvv", "cvc", "cardn", "creditcard", "debitcard", "pincode", "ssn", "iban", "otp"}
	secretWords = []string{"pin", "auth", "card", "private"}
)

var joined = strings.NewReplacer("-", "", "_", "", " ", "", ".", "")

// isSecret says that a field, header or parameter of that name holds a secret, as explanations and records see it. Case,
// "-" and "_" do not count.
func isSecret(name string) bool {
	if len(name) > 200 {
		return true
	}
	low := joined.Replace(strings.ToLower(name))
	if slices.ContainsFunc(secretParts, func(s string) bool { return strings.Contains(low, s) }) || looksLikeKeyHeader(name) {
		return true
	}
	return slices.ContainsFunc(wordsOf(name), func(w string) bool { return strings.HasSuffix(w, "pass") || slices.Contains(secretWords, w) })
}

// wordsOf are the words of a name in lower case: user, pin of userPin, USER_PIN and user-pin2.
func wordsOf(name string) []string {
	var b strings.Builder
	lower := false // the letter before was small
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r):
			r = ' '
		case unicode.IsUpper(r) && lower:
			b.WriteByte(' ')
		}
		lower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(b.String())
}
