package wire

import (
	"encoding/binary"
	"unsafe"
)

// Classes of bytes, one table for all grammars here.
const (
	tokenByte  = 1 << iota // tchar, RFC 9110 §5.6.2
	valueByte              // field-vchar, SP and HTAB; obs-text too
	plainByte              // may stand in a path and needs no care
	queryByte              // may stand in a query as it is
	hexByte                // 0-9 a-f A-F
	unreserved             // RFC 3986 §2.3
	underscore             // "_", which some servers take for "-"
	hostByte               // may stand in a host name; of reg-name (RFC 3986 §3.2.2) what DNS and containers use
)

var (
	class [256]uint8
	lower [256]uint8
	unhex [256]uint8
)

func init() {
	mark := func(c uint8, set string) {
		for i := range len(set) {
			class[set[i]] |= c
		}
	}
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	mark(tokenByte, digits+letters+"!#$%&'*+-.^_`|~")
	mark(underscore, "_")
	mark(hexByte, digits+"abcdefABCDEF")
	mark(unreserved, digits+letters+"-._~")
	mark(plainByte, digits+letters+"-_~!$&'()*+,;=:@") // no "." "/" "%": these need a look
	mark(queryByte, digits+letters+"-._~!$&'()*+,;=:@/?%[]{}|^`\\\"<>")
	mark(hostByte, digits+letters+"-._")
	for i := range 256 {
		c := uint8(i)
		if c >= ' ' && c != 0x7f || c == '\t' {
			class[c] |= valueByte
		}
		lower[c] = c
		if 'A' <= c && c <= 'Z' {
			lower[c] = c + 'a' - 'A'
		}
		switch {
		case '0' <= c && c <= '9':
			unhex[c] = c - '0'
		case 'a' <= c && c <= 'f':
			unhex[c] = c - 'a' + 10
		case 'A' <= c && c <= 'F':
			unhex[c] = c - 'A' + 10
		}
	}
}

func is(c, set uint8) bool { return class[c]&set != 0 }

// all says whether every byte of s is of the class.
func all(s string, set uint8) bool {
	for i := 0; i < len(s); i++ {
		if class[s[i]]&set == 0 {
			return false
		}
	}
	return true
}

// isValue says whether a string may stand in a field's value. It looks at eight bytes at a time, and at
// each byte only where one of them is a control byte: a tab is fine.
func isValue(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := binary.LittleEndian.Uint64(unsafe.Slice(unsafe.StringData(s[i:]), 8))
		del := x ^ 0x7f*ones
		if ((x-' '*ones)&^x|(del-ones)&^del)&high != 0 && !all(s[i:i+8], valueByte) {
			return false
		}
	}
	return all(s[i:], valueByte)
}

// View makes a string of bytes without copying. Whoever calls it answers for the
// bytes not being overwritten while the string is in use.
func View(b []byte) string { return view(b) }

// view makes a string of bytes without copying. It holds as long as the bytes
// are not overwritten: within the call that owns the arena.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// IsToken says that s is a token (RFC 9110 §5.6.2): a method or a field name.
func IsToken(s string) bool { return s != "" && all(s, tokenByte) }
