// Package input reads what somebody has of a refused request, and makes a pinpoint.Case of it.
//
//	curl command, fetch call, Invoke-WebRequest ┐
//	HAR, Postman collection, raw HTTP text      ├→ pinpoint.Case → pinpoint.Seal
//	line of an access log                       ┘
//
// Nothing is executed, and no file is opened unless the caller allowed that path. What the input
// lacks becomes a pinpoint.Gap, so that nobody draws conclusions from its absence. Everything here is
// written by strangers: sizes, depths and counts are bounded.
package input

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of what is read. They are far above what browsers and tools write.
const (
	maxText  = 16 << 20 // bytes of a command, a raw message, a file named by @
	maxWords = 10_000   // words of a command
	maxDepth = 64       // of nested objects, folders, variables
)

// Files reads a file that the input names (@file, a cookie jar, an environment). It returns
// ErrNotAllowed for paths that the user did not permit. A nil Files permits none.
type Files func(name string) ([]byte, error)

// ErrNotAllowed says that the user did not permit a path.
var ErrNotAllowed = errors.New("this file may not be read without permission")

// Allow permits some paths, and nothing else. Only regular files up to 16 MiB are read.
func Allow(paths ...string) Files {
	allowed := map[string]bool{}
	for _, p := range paths {
		if abs, err := filepath.Abs(p); err == nil {
			allowed[abs] = true
		}
	}
	return func(name string) ([]byte, error) {
		abs, err := filepath.Abs(name)
		if err != nil || !allowed[abs] {
			return nil, ErrNotAllowed
		}
		if info, err := os.Stat(abs); err != nil {
			return nil, errors.New("there is no such file, or it may not be opened")
		} else if !info.Mode().IsRegular() {
			return nil, errors.New("it is not a regular file")
		}
		f, err := os.Open(abs)
		if err != nil {
			return nil, errors.New("it may not be opened")
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxText+1))
		if err != nil {
			return nil, errors.New("it may not be read")
		}
		if len(text) > maxText {
			return nil, errors.New("it is longer than 16 MiB")
		}
		return text, nil
	}
}

func (f Files) read(name string) ([]byte, error) {
	if f == nil {
		return nil, ErrNotAllowed
	}
	return f(name)
}

// Error says what is wrong with an input, where, and what to do. It quotes no values: they may be
// secrets.
type Error struct {
	Line, Column int    // from 1; 0 when there are no lines
	Path         string // in JSON: "log.entries[3].request.url"
	Says         string
	Do           string
}

func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Path != "":
		b.WriteString(e.Path + ": ")
	case e.Line > 0 && e.Column > 0:
		fmt.Fprintf(&b, "line %d, column %d: ", e.Line, e.Column)
	case e.Line > 0:
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	b.WriteString(e.Says)
	if e.Do != "" {
		b.WriteString(": " + e.Do)
	}
	return b.String()
}

// at is an error at a byte offset of a text.
func at(text string, offset int, says, do string) *Error {
	offset = max(0, min(offset, len(text)))
	line := 1 + strings.Count(text[:offset], "\n")
	column := 1 + utf8.RuneCountInString(text[strings.LastIndexByte(text[:offset], '\n')+1:offset])
	return &Error{Line: line, Column: column, Says: says, Do: do}
}

// Kinds of input that Any tells apart.
const (
	KindCurl    = "curl" // also fetch and Invoke-WebRequest
	KindHAR     = "har"
	KindPostman = "postman"
	KindRaw     = "raw"
	KindLog     = "log"
	KindURL     = "url"
)

// Guess names the kind of an input by its first bytes, "" when it looks like none. 4 KiB suffice.
func Guess(text string) string {
	text = strings.TrimLeft(strings.TrimPrefix(text, "\ufeff"), " \t\r\n")
	first, _, _ := strings.Cut(text, "\n")
	first = strings.TrimRight(first, "\r ")
	lower := strings.ToLower(text[:min(len(text), 4096)])
	switch {
	case text == "":
		return ""
	case strings.HasPrefix(text, "{"):
		head := text[:min(len(text), 64<<10)]
		switch {
		case strings.Contains(head, `"log"`) && !strings.HasSuffix(first, "}"):
			return KindHAR
		case strings.Contains(head, `"log"`) && (strings.Contains(head, `"entries"`) || strings.Contains(head, `"creator"`)):
			return KindHAR
		case strings.Contains(head, `"info"`) && (strings.Contains(head, `"item"`) || strings.Contains(head, "getpostman")),
			strings.Contains(head, "schema.getpostman.com"), strings.Contains(head, `"_postman_id"`):
			return KindPostman
		}
		return KindLog
	case shape(text) != "":
		return KindCurl
	case requestLine.MatchString(first), strings.HasPrefix(text, "###"), httpComment(text):
		return KindRaw
	case strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://"):
		if !strings.ContainsAny(strings.TrimSpace(text), " \t\n") {
			return KindURL
		}
	}
	if _, err := Line(text); err == nil || errorLine(text) != nil {
		return KindLog
	}
	return ""
}

// Any guesses the kind of an input by its content and reads it. A HAR and a Postman collection in
// which several requests may be meant give a *Choice as the error. r is read up to the bound of its kind.
func Any(r io.Reader, allow Files) (*pinpoint.Case, error) {
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	head = head[:n]
	kind := Guess(string(head))
	all := io.MultiReader(bytes.NewReader(head), r)
	if kind == KindHAR {
		h, err := HAR(all)
		if err != nil {
			return nil, err
		}
		return h.Only()
	}
	text, err := readText(all)
	if err != nil {
		return nil, err
	}
	switch kind {
	case KindCurl:
		return Curl(text, allow)
	case KindPostman:
		p, err := Postman([]byte(text), nil)
		if err != nil {
			return nil, err
		}
		return p.Only()
	case KindRaw:
		return Raw(text, RawOptions{Files: allow})
	case KindLog:
		return Log(text, "")
	case KindURL:
		return Args([]string{strings.TrimSpace(strings.TrimPrefix(text, "\ufeff"))}, allow)
	}
	return nil, &Error{Says: "this is none of the inputs that are known",
		Do: "hand in a URL, a curl command, a HAR file, a Postman collection, a raw HTTP request or a line of a log"}
}

func readText(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return "", fmt.Errorf("reading the input: %w", err)
	}
	if len(text) > maxText {
		return "", tooLong()
	}
	return string(text), nil
}

func tooLong() *Error {
	return &Error{Says: "the input is longer than 16 MiB", Do: "hand in the one request alone"}
}

// absolute checks a URL that a request goes to, and takes the name and password out of it: clients
// send them as Authorization. The escapes stay as they are written.
func absolute(raw string) (clean, user string, hasUser bool, err *Error) {
	raw, _, _ = strings.Cut(strings.TrimSpace(raw), "#")
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "", "", false, &Error{Says: "the URL has no scheme", Do: "write it in full, with https://"}
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return "", "", false, &Error{Says: "only http and https URLs can be diagnosed", Do: "hand in the request that was refused"}
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host, tail := rest[:end], rest[end:]
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		user, host, hasUser = host[:i], host[i+1:], true
	}
	if host == "" {
		return "", "", false, &Error{Says: "the URL names no host", Do: "write it in full, with https://"}
	}
	if !strings.HasPrefix(tail, "/") {
		tail = "/" + tail
	}
	clean = scheme + "://" + host + tail
	if _, perr := url.Parse(clean); perr != nil { // its text would quote the URL
		return "", "", false, &Error{Says: "the URL is malformed", Do: "check its host, its port and its % escapes"}
	}
	return clean, user, hasUser, nil
}

// sendable refuses a case whose request no client could have sent: a line break in a field would be
// another field.
func sendable(c *pinpoint.Case) (*pinpoint.Case, error) {
	for _, x := range c.Exchanges {
		for _, f := range x.Request.Header {
			if !token(f.Name) || strings.ContainsAny(f.Value, "\r\n\x00") {
				return nil, &Error{Says: "a header field holds a line break, or has a name that is not a token", Do: "check the quotes around it, and give each field its own place"}
			}
		}
	}
	return c, nil
}

// noAnswer is the gap of inputs that hold a request alone.
func noAnswer() pinpoint.Gap {
	return pinpoint.Gap{Kind: "no-answer", Says: "The input holds the request but not the answer: whether a replay meets the same refusal is not known. Hand in the answer too (curl -i, a HAR) to compare."}
}

// fileGap says that a file was not read.
func fileGap(what, name string, err error) pinpoint.Gap {
	says := fmt.Sprintf("%s names the file %s, and it was not read: %v.", what, clip(printable(name), 120), err)
	if errors.Is(err, ErrNotAllowed) {
		says += " Permit that path, or paste the content in its place."
	}
	return pinpoint.Gap{Kind: "file-not-read", Says: says, Blocks: true}
}

// printable replaces control characters.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// token says whether s is a token of RFC 9110 section 5.6.2: a method, a field name.
func token(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}
