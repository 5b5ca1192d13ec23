package policy

import "testing"

func TestSecretNames(t *testing.T) {
	for _, name := range []string{"password", "userPassword", "X-Api-Key", "api_key", "API-KEY", "Authorization", "client_secret", "access_token", "Set-Cookie", "PHPSESSION", "pin",
		"userPin", "USER_PIN", "user-pin2", "pass", "db_pass", "userpass", "auth", "card", "card_number", "cardNo", "credit-card", "iban", "cvc2", "private_key", "private", "x-signature", "otp", "key"} {
		if !isSecret(name) {
			t.Errorf("%s is shown", name)
		}
	}
	for _, name := range []string{"", "shipping", "passengers", "discard", "author", "name", "amount", "keyboard", "dept", "opinion"} {
		if isSecret(name) {
			t.Errorf("%s is hidden", name)
		}
	}
	matched := func(key string) bool { return (&WAFMatch{Variable: "ARGS", Key: key}).secret() }
	for _, name := range []string{"signature", "otp", "passphrase", "session", "cookie"} { // one list for all
		if !isSecret(name) || !matched(name) {
			t.Errorf("%s: a rule hides it: %v, a match of the firewall: %v", name, isSecret(name), matched(name))
		}
	}
}
