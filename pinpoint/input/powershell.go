package input

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// psReader reads the part of PowerShell that browsers and Postman write: assignments, literals, a few
// constructors and one web command (about_Quoting_Rules, about_Special_Characters, Invoke-WebRequest).
// Nothing is evaluated beyond putting literals together.
type psReader struct {
	text  string
	i     int
	depth int
	size  int // of all strings that were put together
	vars  map[string]any

	agent   string
	cookies []string
}

// psTable is @{…}, with its order.
type psTable struct {
	keys   []string
	values []any
}

func (t *psTable) put(k string, v any) {
	for i := range t.keys {
		if strings.EqualFold(t.keys[i], k) {
			t.values[i] = v
			return
		}
	}
	t.keys, t.values = append(t.keys, k), append(t.values, v)
}

// Values that stand for objects.
type (
	psSession struct{}
	psCookie  string // "name=value"
	psSwitch  bool
)

func (p *psReader) fail(says, do string) error { return at(p.text, p.i, says, do) }

// blanks skips blanks, continued lines and comments, and newlines too if asked.
func (p *psReader) blanks(newlines bool) {
	for p.i < len(p.text) {
		switch c := p.text[p.i]; {
		case c == ' ' || c == '\t' || c == '\r' || newlines && (c == '\n' || c == ';'):
			p.i++
		case c == '`' && endsLine(p.text[p.i+1:]):
			p.i += strings.IndexByte(p.text[p.i:], '\n') + 1
		case c == '`' && strings.TrimSpace(p.text[p.i+1:]) == "":
			p.i = len(p.text)
		case c == '#' && (p.i == 0 || strings.IndexByte(" \t\n", p.text[p.i-1]) >= 0):
			if n := strings.IndexByte(p.text[p.i:], '\n'); n >= 0 {
				p.i += n
			} else {
				p.i = len(p.text)
			}
		default:
			return
		}
	}
}

func (p *psReader) peek(s string) bool {
	return len(p.text)-p.i >= len(s) && strings.EqualFold(p.text[p.i:p.i+len(s)], s)
}

func (p *psReader) take(s string) bool {
	if p.peek(s) {
		p.i += len(s)
		return true
	}
	return false
}

func (p *psReader) want(s string) error {
	p.blanks(true)
	if !p.take(s) {
		return p.fail("a "+s+" is missing here", "copy the command to its end")
	}
	return nil
}

func (p *psReader) match(re *regexp.Regexp) string {
	m := re.FindString(p.text[p.i:min(len(p.text), p.i+200)])
	p.i += len(m)
	return m
}

var (
	psName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)
	psCommand = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*`)
	psBare    = regexp.MustCompile(`^[^\s'"$(){};,|&<>@` + "`" + `]+`)
	psKey     = regexp.MustCompile(`^[A-Za-z0-9_-]+`)
	psChar    = regexp.MustCompile(`(?i)^\$\(\s*\[char\]\s*(0x[0-9a-f]{1,6}|[0-9]{1,7})\s*\)`)
	psType    = regexp.MustCompile(`^\[[A-Za-z][A-Za-z0-9.]*\]::[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)?`)
	psParam   = regexp.MustCompile(`^-[A-Za-z][A-Za-z0-9]*`)
)

// str reads a string literal at p.i: '…', "…", @'…'@, @"…"@.
func (p *psReader) str() (string, error) {
	open := p.i
	here := p.take("@")
	quote := p.text[p.i]
	p.i++
	if here {
		n := strings.IndexByte(p.text[p.i:], '\n')
		if n < 0 || strings.TrimSpace(p.text[p.i:p.i+n]) != "" {
			return "", p.fail("a here-string begins on the line below its quote", "copy the command to its end")
		}
		p.i += n + 1
	}
	var b strings.Builder
	var pending rune
	char := func(v rune) {
		if pending != 0 && v >= 0xdc00 && v < 0xe000 {
			b.WriteRune(utf16.DecodeRune(pending, v))
			pending = 0
			return
		}
		if pending != 0 {
			b.WriteRune(utf8.RuneError)
			pending = 0
		}
		if v >= 0xd800 && v < 0xdc00 {
			pending = v
		} else {
			b.WriteRune(v)
		}
	}
	closed := func() bool {
		if here {
			return strings.HasPrefix(p.text[p.i:], string(quote)+"@") && p.text[p.i-1] == '\n'
		}
		return p.text[p.i] == quote
	}
	for p.i < len(p.text) {
		c := p.text[p.i]
		if pending != 0 && c != '$' {
			char(0xfffd)
		}
		switch {
		case !here && c == quote && strings.HasPrefix(p.text[p.i+1:], string(quote)):
			b.WriteByte(quote)
			p.i += 2
		case closed():
			p.i++
			s := b.String()
			if here {
				p.i++
				s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
			}
			if p.size += len(s); p.size > 2*maxText {
				return "", tooLong()
			}
			return s, nil
		case quote == '\'':
			b.WriteByte(c)
			p.i++
		case c == '`' && p.i+1 < len(p.text):
			p.i++
			r, n := utf8.DecodeRuneInString(p.text[p.i:])
			s := p.text[p.i : p.i+n]
			p.i += n
			switch r {
			case 'n':
				s = "\n"
			case 'r':
				s = "\r"
			case 't':
				s = "\t"
			case '0':
				s = "\x00"
			case 'a':
				s = "\a"
			case 'b':
				s = "\b"
			case 'e':
				s = "\x1b"
			case 'f':
				s = "\f"
			case 'v':
				s = "\v"
			case 'u':
				if p.take("{") {
					n := strings.IndexByte(p.text[p.i:], '}')
					v, err := strconv.ParseUint(p.text[p.i:p.i+max(n, 0)], 16, 21)
					if err != nil {
						return "", p.fail("this `u{…} names no character", "check the copy")
					}
					p.i += n + 1
					s = string(rune(v))
				}
			}
			b.WriteString(s)
		case c == '$':
			if m := psChar.FindStringSubmatch(p.text[p.i:min(len(p.text), p.i+60)]); m != nil {
				v, err := strconv.ParseUint(m[1], 0, 21)
				if err != nil {
					return "", p.fail("this [char] is no character", "check the copy")
				}
				p.i += len(m[0])
				char(rune(v))
				continue
			}
			if pending != 0 {
				char(0xfffd)
			}
			if strings.HasPrefix(p.text[p.i:], "$(") || strings.HasPrefix(p.text[p.i:], "${") {
				return "", p.fail("$(…) would run a command", "put its result there")
			}
			p.i++
			if name := p.match(psName); name != "" {
				v, ok := p.vars[strings.ToLower(name)].(string)
				if !ok {
					p.i -= len(name) + 1
					return "", p.fail("the variable $"+clip(name, 40)+" is not set in the copy", "put its value there")
				}
				b.WriteString(v)
			} else {
				b.WriteByte('$')
			}
			if b.Len() > maxText {
				return "", tooLong()
			}
		default:
			b.WriteByte(c)
			p.i++
		}
	}
	p.i = open
	return "", p.fail("this string is not closed", "copy the command to its end")
}

// value reads an expression.
func (p *psReader) value() (any, error) {
	v, err := p.operand()
	for err == nil {
		mark := p.i
		p.blanks(false)
		if !p.take("+") {
			p.i = mark
			return v, nil
		}
		p.blanks(true)
		var w any
		if w, err = p.operand(); err == nil {
			a, ok := v.(string)
			b, ok2 := w.(string)
			if !ok || !ok2 {
				return nil, p.fail("only strings can be put together here", "write the value itself")
			}
			if p.size += len(a) + len(b); p.size > 2*maxText {
				return nil, tooLong()
			}
			v = a + b
		}
	}
	return nil, err
}

func (p *psReader) operand() (any, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("this is nested too deeply", "hand in one request")
	}
	defer func() { p.depth-- }()
	if p.i >= len(p.text) {
		return nil, p.fail("a value is missing here", "copy the command to its end")
	}
	switch c := p.text[p.i]; {
	case c == '"' || c == '\'' || p.peek(`@"`) || p.peek(`@'`):
		return p.str()
	case p.take("@{"):
		return p.table()
	case p.peek("@(") || c == '(':
		p.take("@")
		p.i++
		p.blanks(true)
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		return v, p.want(")")
	case c == '$':
		p.i++
		if p.take("(") {
			p.i -= 2
			return nil, p.fail("$(…) would run a command", "put its result there")
		}
		name := strings.ToLower(p.match(psName))
		switch name {
		case "true":
			return psSwitch(true), nil
		case "false", "null":
			return psSwitch(false), nil
		}
		v, ok := p.vars[name]
		if !ok {
			p.i -= len(name)
			return nil, p.fail("the variable $"+clip(name, 40)+" is not set in the copy", "put its value there")
		}
		return v, nil
	case c == '[':
		name := strings.ToLower(p.match(psType))
		switch {
		case strings.HasSuffix(name, "::utf8.getbytes"), strings.HasSuffix(name, "encoding]::ascii.getbytes"):
			args, err := p.args()
			if err != nil {
				return nil, err
			}
			if len(args) != 1 {
				return nil, p.fail("GetBytes wants one string", "check the copy")
			}
			return args[0], nil
		case name == "[system.net.cookie]::new":
			return p.newCookie()
		case strings.HasSuffix(name, "webrequestsession]::new"):
			_, err := p.args()
			return psSession{}, err
		}
		return nil, p.fail("this expression would have to be computed", "put its result there as a string")
	case p.take("New-Object"):
		p.blanks(false)
		if p.peek("-TypeName") {
			p.i += len("-TypeName")
			p.blanks(false)
		}
		kind := ""
		if p.i < len(p.text) && (p.text[p.i] == '"' || p.text[p.i] == '\'') {
			var err error
			if kind, err = p.str(); err != nil {
				return nil, err
			}
		} else {
			kind = p.match(psBare)
		}
		kind = strings.ToLower(kind)
		switch {
		case strings.HasSuffix(kind, "webrequestsession"):
			return psSession{}, nil
		case strings.Contains(kind, "dictionary["), strings.HasSuffix(kind, "hashtable"):
			return &psTable{}, nil
		case strings.HasSuffix(kind, "net.cookie"):
			return p.newCookie()
		}
		return nil, p.fail("this object would have to be made", "hand in the command as the browser copied it")
	}
	if bare := p.match(psBare); bare != "" {
		return bare, nil
	}
	return nil, p.fail("this is no value that can be read", "put a string there")
}

func (p *psReader) newCookie() (any, error) {
	args, err := p.args()
	if err != nil {
		return nil, err
	}
	if len(args) < 2 {
		return nil, p.fail("a cookie has a name and a value", "check the copy")
	}
	return psCookie(psText(args[0]) + "=" + psText(args[1])), nil
}

// args reads (a, b, …).
func (p *psReader) args() (args []any, err error) {
	if err := p.want("("); err != nil {
		return nil, err
	}
	for {
		p.blanks(true)
		if p.take(")") {
			return args, nil
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if args = append(args, v); len(args) > 100 {
			return nil, p.fail("there are too many arguments", "hand in one request")
		}
		p.blanks(true)
		if !p.take(",") && !p.peek(")") {
			return nil, p.fail("a ) is missing here", "copy the command to its end")
		}
	}
}

func (p *psReader) table() (any, error) {
	t := &psTable{}
	for {
		p.blanks(true)
		if p.take("}") {
			return t, nil
		}
		if p.i >= len(p.text) {
			return nil, p.fail("a } is missing here", "copy the command to its end")
		}
		var key string
		var err error
		if c := p.text[p.i]; c == '"' || c == '\'' {
			if key, err = p.str(); err != nil {
				return nil, err
			}
		} else if key = p.match(psKey); key == "" {
			return nil, p.fail("the name of an entry is missing here", "write it in quotes")
		}
		if err := p.want("="); err != nil {
			return nil, err
		}
		p.blanks(true)
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if t.put(key, v); len(t.keys) > 1000 {
			return nil, p.fail("there are more than 1,000 entries", "hand in one request")
		}
	}
}

func psText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case psSwitch:
		if v {
			return "True"
		}
	}
	return ""
}

// psParams are parameters of the web commands; true: a value follows.
var psParams = map[string]bool{"uri": true, "method": true, "custommethod": true, "headers": true, "body": true, "contenttype": true,
	"websession": true, "useragent": true, "usebasicparsing": false, "infile": true, "credential": true, "certificate": true,
	"certificatethumbprint": true, "proxy": true, "proxycredential": true, "skipcertificatecheck": false, "maximumredirection": true,
	"timeoutsec": true, "outfile": true, "sessionvariable": true, "disablekeepalive": false, "usedefaultcredentials": false,
	"authentication": true, "token": true, "httpversion": true, "transferencoding": true, "form": true,
	"skipheadervalidation": false, "allowunencryptedauthentication": false, "verbose": false, "erroraction": true,
	"statuscodevariable": true, "responseheadersvariable": true, "passthru": false, "skiphttperrorcheck": false,
	"sslprotocol": true, "maximumretrycount": true, "retryintervalsec": true, "followrellink": false, "resume": false,
	"preserveauthorizationonredirect": false, "noproxy": false, "proxyusedefaultcredentials": false}

// powerShell reads Invoke-WebRequest or Invoke-RestMethod with the assignments before it.
func powerShell(text string, allow Files) (*pinpoint.Case, error) {
	p := &psReader{text: text, vars: map[string]any{}}
	for statements := 0; ; statements++ {
		p.blanks(true)
		if p.i >= len(p.text) {
			return nil, &Error{Says: "there is no Invoke-WebRequest or Invoke-RestMethod", Do: "copy the command to its end"}
		}
		if statements > 2000 {
			return nil, p.fail("there are too many statements", "hand in one request")
		}
		if p.text[p.i] != '$' {
			return p.web(allow)
		}
		p.i++
		name := strings.ToLower(p.match(psName))
		if name == "" {
			return nil, p.fail("this is no assignment", "hand in the command as the browser copied it")
		}
		switch {
		case p.take(".UserAgent"):
			if err := p.want("="); err != nil {
				return nil, err
			}
			p.blanks(true)
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			p.agent = psText(v)
		case p.take(".Cookies.Add"):
			args, err := p.args()
			if err != nil {
				return nil, err
			}
			for _, a := range args {
				if c, ok := a.(psCookie); ok {
					p.cookies = append(p.cookies, string(c))
				}
			}
		case p.take(".Headers.Add"), p.take(".Add"):
			args, err := p.args()
			if err != nil {
				return nil, err
			}
			t, ok := p.vars[name].(*psTable)
			if !ok || len(args) != 2 {
				return nil, p.fail("this object is not known", "hand in the command as it was copied")
			}
			if t.put(psText(args[0]), args[1]); len(t.keys) > 1000 {
				return nil, p.fail("there are more than 1,000 entries", "hand in one request")
			}
		case p.take("["):
			p.blanks(false)
			k, err := p.value()
			if err != nil {
				return nil, err
			}
			if err := p.want("]"); err != nil {
				return nil, err
			}
			if err := p.want("="); err != nil {
				return nil, err
			}
			p.blanks(true)
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			t, ok := p.vars[name].(*psTable)
			if !ok || len(t.keys) > 1000 {
				return nil, p.fail("this object is not known", "hand in the command as it was copied")
			}
			t.put(psText(k), v)
		default:
			if err := p.want("="); err != nil {
				return nil, err
			}
			p.blanks(true)
			if webStart.MatchString(p.text[p.i:min(len(p.text), p.i+40)]) && !p.peek("$") {
				return p.web(allow)
			}
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			p.vars[name] = v
		}
	}
}

// web reads the command itself and makes the case.
func (p *psReader) web(allow Files) (*pinpoint.Case, error) {
	name := p.match(psCommand)
	if !slices.Contains([]string{"invoke-webrequest", "invoke-restmethod", "iwr", "irm"}, strings.ToLower(name)) {
		p.i -= len(name)
		return nil, p.fail("this is not a web command", "hand in Invoke-WebRequest or Invoke-RestMethod alone, with the assignments before it")
	}
	given := map[string]any{}
	for {
		p.blanks(false)
		if p.i >= len(p.text) || p.text[p.i] == '\n' || p.text[p.i] == ';' || p.text[p.i] == '|' || p.text[p.i] == ')' {
			break
		}
		param := strings.ToLower(strings.TrimPrefix(p.match(psParam), "-"))
		if param == "" {
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			if _, ok := given["uri"]; ok {
				return nil, p.fail("this value belongs to no parameter", "check the quotes before it")
			}
			given["uri"] = v
			continue
		}
		full := param
		if _, ok := psParams[param]; !ok {
			var found []string
			for k := range psParams {
				if strings.HasPrefix(k, param) {
					found = append(found, k)
				}
			}
			if len(found) != 1 {
				var names []string
				for k := range psParams {
					names = append(names, k)
				}
				slices.Sort(names)
				return nil, p.fail("the command has no parameter -"+clip(param, 40), "did you mean -"+nearest(clip(param, 40), names)+"?")
			}
			full = found[0]
		}
		var v any = psSwitch(true)
		if psParams[full] {
			p.take(":")
			p.blanks(false)
			var err error
			if v, err = p.value(); err != nil {
				return nil, err
			}
		} else if p.take(":") {
			var err error
			if v, err = p.value(); err != nil {
				return nil, err
			}
		}
		given[full] = v
	}

	c := &command{allow: allow, source: "curl"}
	target, _, hasUser, bad := absolute(psText(given["uri"]))
	if bad != nil {
		return nil, bad
	}
	r := &pinpoint.Request{URL: withoutDots(target), Method: strings.ToUpper(psText(given["method"]))}
	if m := psText(given["custommethod"]); m != "" {
		r.Method = m
	}
	if r.Method == "" || r.Method == "DEFAULT" {
		r.Method = "GET"
	}
	if !token(r.Method) {
		return nil, &Error{Says: "the method is not a token", Do: "check -Method"}
	}
	if v := psText(given["useragent"]); v != "" {
		p.agent = v
	}
	if p.agent != "" {
		r.Header = append(r.Header, pinpoint.Field{Name: "User-Agent", Value: p.agent})
	} else {
		c.gap("provisional-headers", "The command sets no User-Agent: PowerShell sends one of its own, which a replay does not repeat.", false)
	}
	if len(p.cookies) > 0 {
		r.Header = append(r.Header, pinpoint.Field{Name: "Cookie", Value: strings.Join(p.cookies, "; ")})
	}
	if hasUser {
		c.gap("variable", "The URL holds a user name, which Invoke-WebRequest does not send. Hand in the Authorization field if one was sent.", false)
	}
	if t, ok := given["headers"].(*psTable); ok {
		pseudo := true
		for _, k := range []string{"method", "path", "scheme"} {
			pseudo = pseudo && slices.Contains(t.keys, k)
		}
		for i, k := range t.keys {
			if pseudo && slices.Contains([]string{"authority", "method", "path", "scheme"}, k) || strings.HasPrefix(k, ":") {
				continue
			}
			v := psText(t.values[i])
			if !token(k) || strings.ContainsAny(v, "\r\n\x00") {
				return nil, &Error{Says: "a header field has a name or a value that cannot be sent", Do: "check -Headers"}
			}
			r.Header = append(r.Header, pinpoint.Field{Name: k, Value: strings.TrimSpace(v)})
		}
	}
	kind := psText(given["contenttype"])
	switch b := given["body"].(type) {
	case string:
		r.Body = []byte(b)
	case *psTable:
		var pairs []string
		for i, k := range b.keys {
			pairs = append(pairs, url.QueryEscape(k)+"="+url.QueryEscape(psText(b.values[i])))
		}
		form := strings.Join(pairs, "&")
		if r.Method == "GET" {
			if strings.Contains(r.URL, "?") {
				r.URL += "&" + form
			} else {
				r.URL += "?" + form
			}
		} else {
			r.Body = []byte(form)
		}
	}
	if kind == "" && r.Body != nil && r.Method == "POST" && !r.Header.Has("Content-Type") {
		kind = "application/x-www-form-urlencoded"
	}
	if kind != "" {
		r.Header = r.Header.With("Content-Type", kind)
	}
	if f := psText(given["infile"]); f != "" {
		text, _ := c.file("-InFile", f)
		r.Body = []byte(text)
	}
	if given["form"] != nil {
		c.gap("body", "-Form makes a multipart body, which is not rebuilt. Hand in a HAR of the call.", true)
	}
	for _, k := range []string{"credential", "usedefaultcredentials", "certificate", "certificatethumbprint", "token"} {
		if given[k] != nil {
			c.gap("variable", "-"+k+" takes a credential from the session, which is not in the copy. Hand in the Authorization field or the certificate.", true)
		}
	}
	r.Via.Proxy = psText(given["proxy"])
	if v, ok := given["skipcertificatecheck"].(psSwitch); ok {
		r.Via.Insecure = bool(v)
	}
	if _, err := r.Parsed(); err != nil || strings.ContainsAny(r.URL, " \t\r\n") {
		return nil, &Error{Says: "the URL is malformed", Do: "write blanks and control characters as % escapes"}
	}
	return sendable(&pinpoint.Case{Source: c.source, Exchanges: []pinpoint.Exchange{{Request: r}}, Gaps: append(c.gaps, noAnswer())})
}

// powerShellWords splits a curl.exe command that PowerShell runs.
func powerShellWords(text string) ([]word, error) {
	p := &psReader{text: text, vars: map[string]any{}}
	var words []word
	for {
		p.blanks(false)
		if p.i >= len(p.text) {
			return words, nil
		}
		if len(words) == maxWords {
			return nil, p.fail("the command has more than 10,000 words", "hand in one request")
		}
		if c := p.text[p.i]; c == '\n' || c == ';' {
			p.blanks(true)
			if p.i < len(p.text) && len(words) > 0 {
				return nil, p.fail("here a second command begins", "hand in one command; a line that goes on ends with a backtick")
			}
			continue
		}
		w := word{offset: p.i}
		var b strings.Builder
	next:
		for p.i < len(p.text) {
			switch c := p.text[p.i]; c {
			case ' ', '\t', '\r', '\n', ';':
				break next
			case '"', '\'':
				s, err := p.str()
				if err != nil {
					return nil, err
				}
				b.WriteString(s)
			case '`':
				if endsLine(p.text[p.i+1:]) {
					break next
				}
				p.i++
				if p.i < len(p.text) {
					_, n := utf8.DecodeRuneInString(p.text[p.i:])
					b.WriteString(p.text[p.i : p.i+n])
					p.i += n
				}
			case '$', '|', '&', '(', ')', '{', '}', '<', '>':
				return nil, p.fail("PowerShell would compute something here", "put the argument in single quotes, and hand in the curl command alone")
			default:
				b.WriteByte(c)
				p.i++
			}
		}
		w.text = b.String()
		words = append(words, w)
	}
}
