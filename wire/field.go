package wire

import "strings"

// Field is one header field. ID is set for names that the gateway itself reads.
type Field struct {
	Name, Value string
	ID          FieldID
}

// Fields are header fields in the order in which they came.
type Fields []Field

// FieldID is a number for a field name, so that looking one up compares bytes.
type FieldID uint8

// The fields that the gateway reads or writes itself.
const (
	OtherField FieldID = iota
	Accept
	AcceptEncoding
	AccessControlRequestHeaders
	AccessControlRequestMethod
	Authorization
	Connection
	ContentLength
	ContentLocation
	ContentType
	Cookie
	Date
	Expect
	Forwarded
	GRPCStatus
	Host
	HTTP2Settings
	KeepAlive
	Link
	Location
	Origin
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	Referer
	Refresh
	RetryAfter
	ServerField
	SetCookie
	TE
	Traceparent
	TrailerField
	TransferEncoding
	Upgrade
	UserAgent
	Vary
	Via
	WWWAuthenticate
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedPrefix
	XForwardedProto
	XRealIP
	XRequestID
	numFields
)

var fieldNames = [numFields]string{
	Accept:                      "Accept",
	AcceptEncoding:              "Accept-Encoding",
	AccessControlRequestHeaders: "Access-Control-Request-Headers",
	AccessControlRequestMethod:  "Access-Control-Request-Method",
	Authorization:               "Authorization",
	Connection:                  "Connection",
	ContentLength:               "Content-Length",
	ContentLocation:             "Content-Location",
	ContentType:                 "Content-Type",
	Cookie:                      "Cookie",
	Date:                        "Date",
	Expect:                      "Expect",
	Forwarded:                   "Forwarded",
	GRPCStatus:                  "Grpc-Status",
	Host:                        "Host",
	HTTP2Settings:               "HTTP2-Settings",
	KeepAlive:                   "Keep-Alive",
	Link:                        "Link",
	Location:                    "Location",
	Origin:                      "Origin",
	ProxyAuthenticate:           "Proxy-Authenticate",
	ProxyAuthorization:          "Proxy-Authorization",
	ProxyConnection:             "Proxy-Connection",
	Referer:                     "Referer",
	Refresh:                     "Refresh",
	RetryAfter:                  "Retry-After",
	ServerField:                 "Server",
	SetCookie:                   "Set-Cookie",
	TE:                          "TE",
	Traceparent:                 "Traceparent",
	TrailerField:                "Trailer",
	TransferEncoding:            "Transfer-Encoding",
	Upgrade:                     "Upgrade",
	UserAgent:                   "User-Agent",
	Vary:                        "Vary",
	Via:                         "Via",
	WWWAuthenticate:             "WWW-Authenticate",
	XForwardedFor:               "X-Forwarded-For",
	XForwardedHost:              "X-Forwarded-Host",
	XForwardedPort:              "X-Forwarded-Port",
	XForwardedPrefix:            "X-Forwarded-Prefix",
	XForwardedProto:             "X-Forwarded-Proto",
	XRealIP:                     "X-Real-Ip",
	XRequestID:                  "X-Request-Id",
}

// String is the field's name in its usual spelling.
func (id FieldID) String() string { return fieldNames[id] }

// fieldTable finds the candidate for a name by its length and three of its
// bytes. Two known names in one slot are a panic at start, and then the
// multipliers below want changing.
var fieldTable [256]FieldID

func fieldSlot(name string) uint8 {
	n := len(name)
	return uint8(n) + (name[0] | 0x20) + (name[n-2]|0x20)*11 + (name[n/2]|0x20)*17
}

func init() {
	for id := OtherField + 1; id < numFields; id++ {
		slot := &fieldTable[fieldSlot(fieldNames[id])]
		if *slot != OtherField {
			panic("BUG: " + fieldNames[id] + " and " + fieldNames[*slot] + " share a slot of fieldTable")
		}
		*slot = id
	}
}

// FieldIDOf tells the id of a name in any case, or OtherField.
func FieldIDOf(name string) FieldID {
	if len(name) < 2 {
		return OtherField
	}
	id := fieldTable[fieldSlot(name)]
	if id != OtherField && (fieldNames[id] == name || equalFold(fieldNames[id], name)) {
		return id
	}
	return OtherField
}

// equalFold compares ASCII without regard to case.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x != y && (lower[x] != lower[y]) {
			return false
		}
	}
	return true
}

// EqualFold compares two field names or tokens without regard to ASCII case.
func EqualFold(a, b string) bool { return equalFold(a, b) }

// Get is the value of the first field of that id, or "".
func (fs Fields) Get(id FieldID) string {
	for i := range fs {
		if fs[i].ID == id {
			return fs[i].Value
		}
	}
	return ""
}

// Find is the value of the first field of that id and whether there is one.
func (fs Fields) Find(id FieldID) (string, bool) {
	for i := range fs {
		if fs[i].ID == id {
			return fs[i].Value, true
		}
	}
	return "", false
}

// Lookup is the value of the first field of any name, in any case.
func (fs Fields) Lookup(name string) (string, bool) {
	if id := FieldIDOf(name); id != OtherField {
		return fs.Find(id)
	}
	for i := range fs {
		if fs[i].ID == OtherField && equalFold(fs[i].Name, name) {
			return fs[i].Value, true
		}
	}
	return "", false
}

// Count is how many fields of that name there are.
func (fs Fields) Count(name string) (n int) {
	for i := range fs {
		if equalFold(fs[i].Name, name) {
			n++
		}
	}
	return n
}

// Add appends a field.
func (fs *Fields) Add(name, value string) {
	*fs = append(*fs, Field{Name: name, Value: value, ID: FieldIDOf(name)})
}

// Put appends a field of a known name.
func (fs *Fields) Put(id FieldID, value string) {
	*fs = append(*fs, Field{Name: fieldNames[id], Value: value, ID: id})
}

// Set replaces all fields of that name by one.
func (fs *Fields) Set(name, value string) {
	fs.Remove(name)
	fs.Add(name, value)
}

// Remove takes out all fields of that name and says how many there were.
func (fs *Fields) Remove(name string) int {
	kept := (*fs)[:0]
	for _, f := range *fs {
		if !equalFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	n := len(*fs) - len(kept)
	*fs = kept
	return n
}

// HasToken says whether one of the comma-separated values of these fields is token,
// in any case.
func (fs Fields) HasToken(id FieldID, token string) bool {
	for i := range fs {
		if fs[i].ID == id && HasToken(fs[i].Value, token) {
			return true
		}
	}
	return false
}

// HasToken says whether a comma-separated list contains token, in any case.
func HasToken(list, token string) bool {
	for list != "" {
		var part string
		part, list, _ = strings.Cut(list, ",")
		if equalFold(trim(part), token) {
			return true
		}
	}
	return false
}

// trim takes the white space of RFC 9110 §5.6.3 off both ends.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
