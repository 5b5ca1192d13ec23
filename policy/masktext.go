package policy

import (
	"regexp"
	"slices"
	"strings"
)

// found is something to mask in a text.
type found struct {
	start, end int
	kind       int // index of maskKinds
}

// What is masked, as records count it.
const (
	maskField = iota
	maskEmail
	maskPhone
	maskCard
	maskIBAN
	maskPattern
	numMasks
)

var maskKinds = [numMasks]string{"field", "email", "phone", "card", "iban", "pattern"}

// texts finds what is to be masked in texts. Each kind takes time in proportion to the text.
type texts struct {
	email, phone, card, iban bool
	patterns                 []*regexp.Regexp
}

func (t *texts) any() bool { return t.email || t.phone || t.card || t.iban || len(t.patterns) > 0 }

// find lists what is there, in order and without overlaps. It does not allocate where nothing is.
func (t *texts) find(s string) []found {
	var all []found
	if t.email && strings.IndexByte(s, '@') >= 0 {
		all = findEmails(s, all)
	}
	if t.phone && strings.IndexByte(s, '+') >= 0 {
		all = findPhones(s, all)
	}
	if (t.card || t.iban) && strings.ContainsAny(s, "0123456789") {
		if t.card {
			all = findCards(s, all)
		}
		if t.iban {
			all = findIBANs(s, all)
		}
	}
	for _, re := range t.patterns {
		for _, m := range re.FindAllStringIndex(s, -1) {
			if m[1] > m[0] {
				all = append(all, found{m[0], m[1], maskPattern})
			}
		}
	}
	if len(all) < 2 {
		return all
	}
	slices.SortStableFunc(all, func(a, b found) int { return a.start - b.start })
	kept := all[:1]
	for _, f := range all[1:] {
		if last := &kept[len(kept)-1]; f.start < last.end {
			last.end = max(last.end, f.end)
		} else {
			kept = append(kept, f)
		}
	}
	return kept
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isAlnum(c byte) bool { return isDigit(c) || isAlpha(c) }

// findEmails finds addresses as they are used, not all that RFC 5321 allows: no quotes, no comments, a
// dot in the domain.
func findEmails(s string, all []found) []found {
	for i := 0; ; {
		n := strings.IndexByte(s[i:], '@')
		if n < 0 {
			return all
		}
		at := i + n
		start, end := at, at+1
		for start > i && at-start < 64 && (isAlnum(s[start-1]) || s[start-1] >= 0x80 || strings.IndexByte("._%+-", s[start-1]) >= 0) {
			start--
		}
		for start < at && s[start] == '.' {
			start++
		}
		for end < len(s) && end-at < 254 && (isAlnum(s[end]) || s[end] >= 0x80 || s[end] == '-' || s[end] == '.' && s[end-1] != '.' && s[end-1] != '@') {
			end++
		}
		for end > at+1 && (s[end-1] == '.' || s[end-1] == '-') {
			end--
		}
		if dot := strings.LastIndexByte(s[at:end], '.'); start < at && dot > 1 && end-at-dot > 2 {
			all = append(all, found{start, end, maskEmail})
		}
		i = max(at+1, end)
	}
}

// findPhones finds numbers in the international form: + and 7 to 15 digits (ITU-T E.164), with spaces,
// dots, dashes, slashes and brackets between them.
func findPhones(s string, all []found) []found {
	for i := 0; ; {
		n := strings.IndexByte(s[i:], '+')
		if n < 0 {
			return all
		}
		start := i + n
		i = start + 1
		if start > 0 && isAlnum(s[start-1]) {
			continue
		}
		digits, end, between := 0, 0, 0
		for j := i; j < len(s) && digits < 16 && between <= 2; j++ {
			switch c := s[j]; {
			case isDigit(c):
				digits++
				between = 0
				if digits <= 15 && (j+1 == len(s) || !isDigit(s[j+1])) && digits >= 7 {
					end = j + 1
				}
				continue
			case strings.IndexByte(" -./()", c) >= 0 && (digits > 0 || c == '('):
				between++
				continue
			}
			break
		}
		if end > 0 {
			all = append(all, found{start, end, maskPhone})
			i = end
		}
	}
}

// findCards finds card numbers: 13 to 19 digits with the check digit of Luhn (ISO/IEC 7812-1) that begin
// like one, in one piece or in groups with a space or dash between them.
func findCards(s string, all []found) []found {
	for i := 0; i < len(s); {
		if !isDigit(s[i]) {
			i++
			continue
		}
		// i is at the start of a group.
		var number [19]byte
		n, end, next := 0, 0, -1
		for j := i; ; {
			group := j
			for j < len(s) && isDigit(s[j]) {
				if n < len(number) {
					number[n] = s[j] - '0'
				}
				n++
				j++
			}
			if next < 0 {
				next = j
			}
			if n > len(number) {
				break
			}
			if n >= 13 && luhn(number[:n]) {
				end = j
			}
			if j-group < 4 || j+1 >= len(s) || s[j] != ' ' && s[j] != '-' || !isDigit(s[j+1]) {
				break
			}
			j++
		}
		if end > 0 && '2' <= s[i] && s[i] <= '6' {
			all = append(all, found{i, end, maskCard})
			next = end
		}
		i = next
	}
	return all
}

func luhn(digits []byte) bool {
	sum := 0
	for i := range digits {
		d := int(digits[len(digits)-1-i])
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// findIBANs finds account numbers (ISO 13616): a country, two check digits modulo 97, 15 to 34
// characters in all, in one piece or in groups of four.
func findIBANs(s string, all []found) []found {
	for i := 0; i+15 <= len(s); {
		if !isAlpha(s[i]) || !isAlpha(s[i+1]) || !isDigit(s[i+2]) || !isDigit(s[i+3]) || i > 0 && isAlnum(s[i-1]) {
			i++
			continue
		}
		n, end := 0, 0
		var number [34]byte
		for j := i; ; {
			group := j
			for j < len(s) && isAlnum(s[j]) && n <= len(number) {
				if n < len(number) {
					number[n] = s[j]
				}
				n++
				j++
			}
			if n > len(number) {
				break
			}
			if n >= 15 && mod97(number[:n]) {
				end = j
			}
			if j-group != 4 || j+1 >= len(s) || s[j] != ' ' || !isAlnum(s[j+1]) {
				break
			}
			j++
		}
		if end > 0 {
			all = append(all, found{i, end, maskIBAN})
			i = end
		} else {
			i += 4
		}
	}
	return all
}

// mod97 is the check of ISO 7064 with the first four characters behind the others.
func mod97(iban []byte) bool {
	r := 0
	for i := range iban {
		switch c := iban[(i+4)%len(iban)]; {
		case isDigit(c):
			r = (r*10 + int(c-'0')) % 97
		default:
			r = (r*100 + int(c|0x20-'a') + 10) % 97
		}
	}
	return r == 1
}
