package input

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// curlAgent stands for the User-Agent of a command that sets none, and of a URL with the options of curl: curl always
// sends one, and servers that refuse tools know it by that.
const curlAgent = "curl/8.14.1"

// Curl reads a command that was copied from a browser, a tool or documentation: curl for bash, cmd or
// PowerShell, Invoke-WebRequest and Invoke-RestMethod, or a fetch call. It is taken apart, never run.
func Curl(text string, allow Files) (*pinpoint.Case, error) {
	if len(text) > maxText {
		return nil, tooLong()
	}
	text = strings.TrimPrefix(text, "\ufeff")
	var words []word
	var err error
	switch shape(text) {
	case "fetch":
		return fetchCall(text)
	case "powershell":
		return powerShell(text, allow)
	case "powershell-curl":
		words, err = powerShellWords(text)
	case "cmd":
		words, err = cmdWords(text)
	default:
		words, err = bashWords(promptless(text))
	}
	if err != nil {
		return nil, err
	}
	if len(words) == 0 || !curlName.MatchString(words[0].text) {
		return nil, &Error{Line: 1, Column: 1, Says: "this is not a curl command", Do: "it begins with curl, without variables or other commands in front"}
	}
	return (&command{text: text, allow: allow, source: "curl"}).run(words[1:])
}

// Args reads the arguments of whygate pinpoint itself: a URL and the options of curl.
func Args(args []string, allow Files) (*pinpoint.Case, error) {
	words := make([]word, 0, len(args))
	size := 0
	for _, a := range args {
		words = append(words, word{a, -1})
		size += len(a)
	}
	if size > maxText || len(words) > maxWords {
		return nil, tooLong()
	}
	return (&command{allow: allow, source: "url"}).run(words)
}

var (
	curlName  = regexp.MustCompile(`(?i)^(?:[^\s]*[/\\])?curl(?:\.exe)?$`)
	curlStart = regexp.MustCompile(`(?i)^(?:[$>%#]\s+)?(?:[^\s'"]*[/\\])?curl(\.exe)?(?:\s|$)`)
	webStart  = regexp.MustCompile(`(?im)^\s*(?:\$[\w:]+\s*=\s*)?(?:Invoke-WebRequest|Invoke-RestMethod|iwr|irm)\s`)
	fetchHead = regexp.MustCompile(`^(?:(?:const|let|var)\s+\w+\s*=\s*)?(?:await\s+)?(?:window\.)?fetch\s*\(`)
	cmdCaret  = regexp.MustCompile(`[ \t]\^(?:\r?\n|")`)
	backtick  = regexp.MustCompile("[ \\t]`[ \\t]*\\r?\\n")
	bashFirst = regexp.MustCompile(`(?i)^\S*curl(?:\.exe)?\s+\$?'`)
)

// shape tells the dialect of a command, "" if it is none.
func shape(text string) string {
	text = strings.TrimLeft(text, " \t\r\n")
	head := text[:min(len(text), 64<<10)]
	switch {
	case fetchHead.MatchString(head):
		return "fetch"
	case strings.HasPrefix(head, "$") && webStart.MatchString(text), webStart.MatchString(head[:min(len(head), 200)]) && webStart.FindStringIndex(head)[0] == 0:
		return "powershell"
	case !curlStart.MatchString(head):
		return ""
	case strings.Contains(head, "\\\n"):
		return "bash"
	case cmdCaret.MatchString(head) && !bashFirst.MatchString(head):
		return "cmd"
	case backtick.MatchString(head):
		return "powershell-curl"
	case strings.Contains(head, `"`) && !strings.Contains(head, "'") && strings.Contains(head, `""`) && strings.HasPrefix(strings.TrimPrefix(head, "curl "), `"`):
		return "cmd" // the older form of browsers, on one line, with doubled quotes
	}
	return "bash"
}

// promptless takes away a prompt that was copied too.
func promptless(text string) string {
	trimmed := strings.TrimLeft(text, " \t\r\n")
	for _, p := range []string{"$ ", "% ", "> ", "# "} {
		if strings.HasPrefix(trimmed, p) {
			return strings.Repeat("\n", strings.Count(text[:len(text)-len(trimmed)], "\n")) + trimmed[2:]
		}
	}
	return text
}

// command is a curl command that is being read.
type command struct {
	text   string // for positions; "" for arguments
	allow  Files
	source string
	word   word // the one that is being read

	urls       []word
	method     string
	header     []string
	data       []byte
	hasData    bool
	json, get  bool
	head       bool
	form       []formPart
	upload     string
	user       string
	bearer     string
	auth       string // digest, ntlm, …
	agent      *string
	referer    string
	cookies    []string
	query      []string
	compressed bool
	rangeOf    string
	proto      string
	resolve    []string
	connect    []string
	proxyUser  string
	asIs, glob bool
	via        pinpoint.Via
	gaps       []pinpoint.Gap
}

type formPart struct {
	name, kind, filename string
	header               []string
	content              []byte
	isFile               bool
}

func (c *command) fail(says, do string) error {
	if c.text == "" || c.word.offset < 0 {
		return &Error{Says: says, Do: do}
	}
	return at(c.text, c.word.offset, says, do)
}

func (c *command) gap(kind, says string, blocks bool) {
	for _, g := range c.gaps {
		if g.Says == says {
			return
		}
	}
	if len(c.gaps) < 100 {
		c.gaps = append(c.gaps, pinpoint.Gap{Kind: kind, Says: says, Blocks: blocks})
	}
}

// run reads the options and builds the case.
func (c *command) run(words []word) (*pinpoint.Case, error) {
	onlyURLs := false
	for i := 0; i < len(words); i++ {
		c.word = words[i]
		w := words[i].text
		value := func() (string, error) {
			if i+1 >= len(words) {
				return "", c.fail("the option "+clip(printable(w), 40)+" lacks its value", "copy the command to its end")
			}
			i++
			return words[i].text, nil
		}
		switch {
		case onlyURLs || !strings.HasPrefix(w, "-") || w == "-":
			c.urls = append(c.urls, words[i])
		case w == "--":
			onlyURLs = true
		case strings.HasPrefix(w, "--"):
			name, inline, hasInline := strings.Cut(w[2:], "=")
			o, off, err := longOption(name)
			if err != nil {
				says, do, _ := strings.Cut(err.Error(), ": ")
				return nil, c.fail(says, do)
			}
			v := inline
			if o.valued && !hasInline {
				if v, err = value(); err != nil {
					return nil, err
				}
			}
			if err := c.set(o.long, v, off); err != nil {
				return nil, err
			}
		default:
			for j := 1; j < len(w); j++ {
				o, ok := optionTable().short[w[j]]
				if !ok {
					return nil, c.fail("curl has no option -"+printable(w[j:j+1]), "check the quotes before it")
				}
				v := ""
				if o.valued {
					if v = w[j+1:]; v == "" {
						var err error
						w = w[:j+1]
						if v, err = value(); err != nil {
							return nil, err
						}
					}
					j = len(w)
				}
				if err := c.set(o.long, v, false); err != nil {
					return nil, err
				}
			}
		}
	}
	return c.build()
}

// set applies one option ("curl.1"). What is not named here does not change the request.
func (c *command) set(name, v string, off bool) error {
	switch name {
	case "url":
		c.urls = append(c.urls, word{v, c.word.offset})
	case "request":
		if !token(v) {
			return c.fail("the method is not a token", "RFC 9110 section 9.1 allows letters, digits and some marks")
		}
		c.method = v
	case "header":
		if file, ok := strings.CutPrefix(v, "@"); ok {
			text, err := c.allow.read(file)
			if err != nil {
				c.gaps = append(c.gaps, fileGap("-H", file, err))
				return nil
			}
			for line := range strings.SplitSeq(string(text), "\n") {
				if line = strings.TrimSuffix(line, "\r"); line != "" {
					c.header = append(c.header, line)
				}
			}
			return nil
		}
		c.header = append(c.header, v)
	case "user-agent":
		c.agent = &v
	case "referer":
		c.referer = strings.TrimSuffix(v, ";auto")
	case "cookie":
		return c.cookie(v)
	case "user":
		c.user = v
	case "oauth2-bearer":
		c.bearer = v
	case "digest", "ntlm", "ntlm-wb", "negotiate", "anyauth":
		if !off {
			c.auth = name
		}
	case "basic":
		c.auth = ""
	case "aws-sigv4":
		c.gap("signature", "curl would compute an AWS signature (--aws-sigv4) for the time of the call: hand in the request as it was signed, with its Authorization and X-Amz-Date fields (curl -v shows them).", true)
	case "data", "data-ascii":
		if file, ok := strings.CutPrefix(v, "@"); ok {
			text, ok := c.file("-d", file)
			if ok {
				text = strings.NewReplacer("\r", "", "\n", "", "\x00", "").Replace(text)
			}
			return c.add(text)
		}
		return c.add(v)
	case "data-raw":
		return c.add(v)
	case "data-binary":
		if file, ok := strings.CutPrefix(v, "@"); ok {
			v, _ = c.file("--data-binary", file)
		}
		return c.add(v)
	case "json":
		if file, ok := strings.CutPrefix(v, "@"); ok {
			v, _ = c.file("--json", file)
		}
		first := !c.hasData
		c.json, c.hasData = true, true
		if !first && len(c.data)+len(v) > maxText {
			return tooLong()
		}
		c.data = append(c.data, v...)
	case "data-urlencode":
		return c.add(c.encoded(v))
	case "url-query":
		if raw, ok := strings.CutPrefix(v, "+"); ok {
			c.query = append(c.query, raw)
		} else {
			c.query = append(c.query, c.encoded(v))
		}
	case "form", "form-string":
		return c.part(v, name == "form-string")
	case "upload-file":
		c.upload = v
	case "get":
		c.get = !off
	case "head":
		c.head = !off
	case "compressed":
		c.compressed = !off
	case "insecure":
		c.via.Insecure = !off
	case "range":
		c.rangeOf = v
	case "http1.0":
		c.proto = "HTTP/1.0"
	case "http1.1":
		c.proto = "HTTP/1.1"
	case "http2", "http2-prior-knowledge":
		c.proto = "HTTP/2"
	case "http3", "http3-only":
		c.proto = "HTTP/3"
	case "ipv4":
		c.via.Family = 4
	case "ipv6":
		c.via.Family = 6
	case "resolve":
		c.resolve = append(c.resolve, v)
	case "connect-to":
		c.connect = append(c.connect, v)
	case "interface":
		for _, p := range []string{"if!", "host!"} {
			v = strings.TrimPrefix(v, p)
		}
		c.via.From = v
	case "cacert":
		c.via.CA = v
	case "cert":
		file, _, pass := strings.Cut(v, ":")
		if len(file) == 1 && pass { // a drive of Windows
			rest := v[2:]
			file, _, pass = strings.Cut(rest, ":")
			file = v[:2] + file
		}
		if pass {
			c.encryptedKey()
		}
		c.via.Cert = file
	case "key":
		c.via.Key = v
	case "pass":
		c.encryptedKey()
	case "proxy", "proxy1.0", "socks4", "socks4a", "socks5", "socks5-hostname", "preproxy":
		if v != "" && !strings.Contains(v, "://") {
			scheme := map[string]string{"socks4": "socks4", "socks4a": "socks4a", "socks5": "socks5", "socks5-hostname": "socks5h"}[name]
			v = cmp.Or(scheme, "http") + "://" + v
		}
		c.via.Proxy = v
	case "proxy-user":
		c.proxyUser = v
	case "location", "location-trusted", "follow":
		if !off {
			c.gap("redirects", "The command follows redirects (-L): the refusal may come from another URL than the one it begins with.", false)
		}
	case "globoff":
		c.glob = !off
	case "path-as-is":
		c.asIs = !off
	case "next":
		return c.fail("the command makes several requests (--next)", "hand in the one that was refused")
	case "config":
		c.gaps = append(c.gaps, pinpoint.Gap{Kind: "file-not-read", Blocks: true,
			Says: "-K names a file with more options, and it is not read. Write its options into the command."})
	case "netrc", "netrc-optional", "netrc-file":
		if !off {
			c.gaps = append(c.gaps, pinpoint.Gap{Kind: "file-not-read", Blocks: true,
				Says: "The command takes credentials from a .netrc file, and it is not read. Hand them in with -u."})
		}
	case "unix-socket", "abstract-unix-socket":
		c.gap("connection", "The command connects to a Unix socket, which a replay does not. Hand in a TCP address.", true)
	case "request-target":
		c.gap("connection", "The command sends another request target than its URL says (--request-target). A replay sends the URL's.", true)
	case "haproxy-protocol", "haproxy-clientip":
		c.gap("connection", "The command begins with a PROXY protocol line, which a replay does not send.", true)
	case "variable":
		return c.fail("the command uses variables of curl (--variable)", "write their values in their places")
	case "proxy-header", "ciphers", "tls13-ciphers", "tls-max", "tlsv1", "tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3", "curves", "alpn", "sigalgs", "ech":
		c.gap("connection", "The command sets --"+name+", which a replay does not repeat.", false)
	case "etag-compare", "time-cond", "continue-at":
		c.gap("connection", "The command makes its request conditional (--"+name+"), which a replay does not repeat.", false)
	case "help", "manual", "version":
		return c.fail("this command asks curl about itself", "hand in a command that makes a request")
	}
	return nil
}

func (c *command) encryptedKey() {
	c.gap("file-not-read", "The key of the client certificate has a passphrase, which is not kept. Hand in a key without one.", false)
}

func (c *command) file(option, name string) (string, bool) {
	text, err := c.allow.read(name)
	if err != nil {
		c.gaps = append(c.gaps, fileGap(option, name, err))
		return "", false
	}
	return string(text), true
}

// add joins data with &.
func (c *command) add(v string) error {
	if len(c.data)+len(v) > maxText {
		return tooLong()
	}
	if c.hasData {
		c.data = append(c.data, '&')
	}
	c.data, c.hasData = append(c.data, v...), true
	return nil
}

// encoded reads the forms of --data-urlencode: content, =content, name=content, @file, name@file.
func (c *command) encoded(v string) string {
	i := strings.IndexAny(v, "=@")
	if i < 0 {
		return percent(v)
	}
	name, rest := v[:i], v[i+1:]
	if v[i] == '@' {
		rest, _ = c.file("--data-urlencode", rest)
	}
	if name == "" {
		return percent(rest)
	}
	return name + "=" + percent(rest)
}

// percent escapes all but the unreserved characters of RFC 3986; a blank becomes a plus, as the curl
// tool has it.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		case c == ' ':
			b.WriteByte('+')
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// cookie reads -b: pairs, or a jar in Netscape's format when there is no = in it.
func (c *command) cookie(v string) error {
	if strings.Contains(v, "=") || v == "" {
		if v != "" {
			c.cookies = append(c.cookies, v)
		}
		return nil
	}
	text, ok := c.file("-b", v)
	if !ok {
		return nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(strings.TrimPrefix(line, "#HttpOnly_"), "\r")
		f := strings.Split(line, "\t")
		if len(f) != 7 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(c.cookies) < 1000 {
			c.cookies = append(c.cookies, jarMark+strings.Join(f, "\t"))
		}
	}
	return nil
}

const jarMark = "\x00jar\t"

// part reads -F: name=content, name=@file;type=…;filename=…, name=<file.
func (c *command) part(v string, literal bool) error {
	name, rest, ok := strings.Cut(v, "=")
	if !ok {
		return c.fail("-F wants name=content", "check the quotes around it")
	}
	if len(c.form) == 1000 {
		return c.fail("the form has more than 1,000 parts", "hand in the request as raw HTTP text")
	}
	p := formPart{name: name}
	defer func() { c.form = append(c.form, p) }()
	if literal {
		p.content = []byte(rest)
		return nil
	}
	sign := byte(0)
	if rest != "" && (rest[0] == '@' || rest[0] == '<') {
		sign, rest = rest[0], rest[1:]
	}
	rest, params := formParams(rest)
	for _, kv := range params {
		switch k, val, _ := strings.Cut(kv, "="); strings.ToLower(strings.TrimSpace(k)) {
		case "type":
			p.kind = val
		case "filename":
			p.filename = val
			p.isFile = true
		case "headers":
			if h, ok := strings.CutPrefix(val, "@"); ok {
				c.gaps = append(c.gaps, fileGap("-F", h, ErrNotAllowed))
			} else {
				p.header = append(p.header, val)
			}
		case "encoder":
			c.gap("body", "-F encodes a part (encoder=), which is not repeated.", true)
		}
	}
	switch sign {
	case '@':
		if strings.Contains(rest, ",") && c.allow == nil {
			c.gap("file-not-read", "-F names several files for one part, and they were not read.", true)
		}
		text, _ := c.file("-F", rest)
		p.content, p.isFile = []byte(text), true
		if p.filename == "" {
			p.filename = path.Base(strings.ReplaceAll(rest, `\`, "/"))
		}
		if p.kind == "" {
			p.kind = kindOf(p.filename)
		}
	case '<':
		text, _ := c.file("-F", rest)
		p.content = []byte(text)
	default:
		p.content = []byte(rest)
	}
	return nil
}

// formParams splits content and its ;type= and so on. Content may stand in double quotes.
func formParams(s string) (content string, params []string) {
	take := func() string {
		if strings.HasPrefix(s, `"`) {
			var b strings.Builder
			for i := 1; i < len(s); i++ {
				if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
					i++
					b.WriteByte(s[i])
				} else if s[i] == '"' {
					if rest := strings.TrimLeft(s[i+1:], " "); rest == "" || rest[0] == ';' {
						s = rest
						return b.String()
					}
					break
				} else {
					b.WriteByte(s[i])
				}
			}
		}
		v, _, ok := strings.Cut(s, ";")
		if ok {
			s = s[len(v):]
		} else {
			s = ""
		}
		return v
	}
	// A semicolon that no parameter follows belongs to the content.
	whole := s
	content = take()
	for turns := 0; strings.HasPrefix(s, ";") && len(params) < 20; turns++ {
		if turns == 1000 { // content with so many semicolons has no parameters
			return content + s, params
		}
		rest := strings.TrimLeft(s[1:], " ")
		key, value, ok := strings.Cut(rest[:min(len(rest), 20)], "=")
		if ok {
			value = rest[len(key)+1:]
		}
		key = strings.ToLower(key)
		switch {
		case ok && slices.Contains([]string{"type", "filename", "headers", "encoder"}, key):
			s = value
			params = append(params, key+"="+take())
		default:
			if len(params) == 0 && !strings.HasPrefix(whole, `"`) {
				v, _, _ := strings.Cut(s[1:], ";")
				content += ";" + v
				s = s[1+len(v):]
			} else {
				return content, params
			}
		}
		if key == "type" && len(params) > 0 && strings.HasPrefix(s, ";") { // parameters of the media type itself
			next, _, _ := strings.Cut(strings.TrimLeft(s[1:], " "), "=")
			if next == "charset" || next == "boundary" {
				s = s[1:]
				params[len(params)-1] += ";" + take()
			}
		}
	}
	return content, params
}

// kindOf is the media type that curl gives a file by its name.
func kindOf(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".gif":
		return "image/gif"
	case ".jpg", ".jpeg":
		return "image/jpeg"
	case ".png":
		return "image/png"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain"
	case ".htm", ".html":
		return "text/html"
	case ".pdf":
		return "application/pdf"
	case ".xml":
		return "application/xml"
	}
	return "application/octet-stream"
}

// multipart writes the parts with a boundary that depends on them alone.
func multipart(parts []formPart) (kind string, body []byte) {
	hash := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(hash, "%d %s %d ", len(p.name), p.name, len(p.content))
		hash.Write(p.content)
	}
	boundary := "------------------------" + hex.EncodeToString(hash.Sum(nil)[:8])
	quote := strings.NewReplacer(`"`, "%22", "\r", "%0D", "\n", "%0A")
	for _, p := range parts {
		body = fmt.Appendf(body, "--%s\r\nContent-Disposition: form-data; name=\"%s\"", boundary, quote.Replace(p.name))
		if p.isFile {
			body = fmt.Appendf(body, "; filename=\"%s\"", quote.Replace(p.filename))
		}
		body = append(body, "\r\n"...)
		if p.kind != "" {
			body = fmt.Appendf(body, "Content-Type: %s\r\n", p.kind)
		}
		for _, h := range p.header {
			body = fmt.Appendf(body, "%s\r\n", h)
		}
		body = append(append(append(body, "\r\n"...), p.content...), "\r\n"...)
	}
	return "multipart/form-data; boundary=" + boundary, fmt.Appendf(body, "--%s--\r\n", boundary)
}

// build makes the case of all options, with the fields in the order in which curl sends them.
func (c *command) build() (*pinpoint.Case, error) {
	switch {
	case len(c.urls) == 0:
		return nil, &Error{Says: "there is no URL", Do: "hand in the command with the URL that was refused"}
	case len(c.urls) > 1:
		c.word = c.urls[1]
		return nil, c.fail(fmt.Sprintf("there are %d URLs", len(c.urls)), "hand in the one that was refused, and check the quotes around arguments with blanks")
	case c.hasData && len(c.form) > 0:
		return nil, &Error{Says: "-d and -F exclude each other", Do: "hand in the command that was really sent"}
	}
	c.word = c.urls[0]
	target, user, hasUser, err := c.target(c.urls[0].text)
	if err != nil {
		return nil, err
	}
	r := &pinpoint.Request{URL: target, Proto: c.proto, Via: c.via}
	if hasUser && c.user == "" {
		name, pass, _ := strings.Cut(user, ":")
		c.user = unescape(name) + ":" + unescape(pass)
	}

	kind := ""
	switch {
	case c.get:
		r.Method = "GET"
		if c.head {
			r.Method = "HEAD"
		}
		if len(c.data) > 0 {
			c.query = append(c.query, string(c.data))
		}
	case c.head:
		r.Method = "HEAD"
		if c.hasData || len(c.form) > 0 {
			return nil, &Error{Says: "-I and a body exclude each other", Do: "hand in the command that was really sent"}
		}
	case len(c.form) > 0:
		r.Method = "POST"
		kind, r.Body = multipart(c.form)
	case c.hasData:
		r.Method, r.Body, kind = "POST", append([]byte{}, c.data...), "application/x-www-form-urlencoded"
		if c.json {
			kind = "application/json"
		}
	case c.upload != "":
		r.Method = "PUT"
		if c.upload == "-" || c.upload == "." {
			c.gaps = append(c.gaps, pinpoint.Gap{Kind: "file-not-read", Blocks: true,
				Says: "-T sends the standard input, which was not handed in. Hand in the body with --data-binary."})
		} else {
			text, _ := c.file("-T", c.upload)
			r.Body = []byte(text)
			if strings.HasSuffix(r.URL, "/") {
				r.URL += url.PathEscape(path.Base(strings.ReplaceAll(c.upload, `\`, "/")))
			}
		}
	default:
		r.Method = "GET"
	}
	if c.method != "" {
		r.Method = c.method
	}
	for _, q := range c.query {
		if q == "" {
			continue
		}
		if strings.Contains(r.URL, "?") {
			r.URL += "&" + q
		} else {
			r.URL += "?" + q
		}
	}
	if _, err := r.Parsed(); err != nil || strings.ContainsAny(r.URL, " \t\r\n") {
		return nil, c.fail("the URL is malformed", "write blanks and control characters as % escapes")
	}

	custom := pinpoint.Header{}
	gone := map[string]bool{}
	for _, h := range c.header {
		if strings.ContainsAny(h, "\r\n\x00") {
			return nil, &Error{Says: "a header field holds a line break", Do: "give each field its own -H"}
		}
		name, value, ok := strings.Cut(h, ":")
		value = strings.Trim(value, " \t")
		if !ok {
			if name, ok = strings.CutSuffix(strings.TrimRight(h, " \t"), ";"); !ok {
				continue // curl leaves it out
			}
		} else if value == "" {
			gone[strings.ToLower(strings.TrimSpace(name))] = true
			continue
		}
		name = strings.TrimSpace(name)
		if !token(name) {
			return nil, &Error{Says: "a header field has a name that is not a token", Do: "check the quotes around -H"}
		}
		custom = append(custom, pinpoint.Field{Name: name, Value: value})
	}
	standard := func(name, value string) {
		if value != "" && !custom.Has(name) && !gone[strings.ToLower(name)] {
			r.Header = append(r.Header, pinpoint.Field{Name: name, Value: value})
		}
	}
	if parsed, err := r.Parsed(); err == nil && custom.Has("Host") && strings.EqualFold(custom.Value("Host"), parsed.Host) {
		custom = custom.Without("Host")
	}
	switch {
	case c.bearer != "":
		standard("Authorization", "Bearer "+c.bearer)
	case c.user != "" && c.auth != "":
		c.gap("signature", "The command logs in with --"+c.auth+", which takes several requests and is not repeated. Hand in a recording (HAR) of the refused request.", true)
	case c.user != "":
		if !strings.Contains(c.user, ":") {
			c.gap("variable", "-u names a user without a password, for which curl would ask. Write user:password.", true)
		}
		standard("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.user)))
	}
	if c.rangeOf != "" {
		standard("Range", "bytes="+c.rangeOf)
	}
	if c.agent != nil {
		standard("User-Agent", *c.agent)
	} else {
		standard("User-Agent", curlAgent)
	}
	if !c.json {
		standard("Accept", "*/*")
	}
	if c.compressed {
		standard("Accept-Encoding", "deflate, gzip, br, zstd")
	}
	standard("Referer", c.referer)
	standard("Cookie", c.cookieField(r))
	r.Header = append(r.Header, custom...)
	if r.Body != nil && kind != "" {
		if len(c.form) > 0 && custom.Has("Content-Type") { // curl adds its boundary
			for i, f := range r.Header {
				if strings.EqualFold(f.Name, "Content-Type") && !strings.Contains(f.Value, "boundary=") {
					if _, p, err := mime.ParseMediaType(kind); err == nil {
						r.Header[i].Value += "; boundary=" + p["boundary"]
					}
				}
			}
		} else {
			standard("Content-Type", kind)
		}
	}
	if c.json {
		standard("Accept", "application/json")
	}
	c.way(r)
	return sendable(&pinpoint.Case{Source: c.source, Exchanges: []pinpoint.Exchange{{Request: r}}, Gaps: append(c.gaps, noAnswer())})
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// target reads the URL as curl does: a scheme may be missing, sets in braces and ranges in brackets would
// be several URLs, and dot segments are taken out of the path.
func (c *command) target(raw string) (clean, user string, hasUser bool, err error) {
	raw = strings.TrimSpace(raw)
	if !strings.Contains(raw, "://") {
		if strings.HasPrefix(raw, "-") || raw == "" {
			return "", "", false, c.fail("there is no URL", "hand in the command with the URL that was refused")
		}
		raw = "http://" + raw
	}
	if !c.glob && c.source == "curl" {
		if m := globbed.FindStringIndex(raw); m != nil {
			return "", "", false, c.fail("curl would make several URLs of the braces or brackets in this one", "hand in the one that was refused, or add -g if they are meant")
		}
	}
	clean, user, hasUser, bad := absolute(raw)
	if bad != nil {
		return "", "", false, c.fail(bad.Says, bad.Do)
	}
	if !c.asIs {
		clean = withoutDots(clean)
	}
	return clean, user, hasUser, nil
}

var globbed = regexp.MustCompile(`\{[^{}]*,[^{}]*\}|\[(?:\d+-\d+|[a-z]-[a-z]|[A-Z]-[A-Z])(?::\d+)?\]`)

// withoutDots removes dot segments of the path (RFC 3986 section 5.2.4).
func withoutDots(u string) string {
	i := strings.Index(u, "://") + 3
	j := i + strings.IndexByte(u[i:], '/')
	p, query, hasQuery := strings.Cut(u[j:], "?")
	if !strings.Contains(p, "/.") {
		return u
	}
	var out []string
	parts := strings.Split(p, "/")[1:]
	for n, s := range parts {
		last := n == len(parts)-1
		switch s {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	p = "/" + strings.Join(out, "/")
	if hasQuery {
		p += "?" + query
	}
	return u[:j] + p
}

// cookieField joins pairs and the cookies of a jar that the URL gets.
func (c *command) cookieField(r *pinpoint.Request) string {
	u, err := r.Parsed()
	if err != nil {
		return ""
	}
	var pairs []string
	var jar [][]string
	for _, v := range c.cookies {
		rest, ok := strings.CutPrefix(v, jarMark)
		if !ok {
			pairs = append(pairs, v)
			continue
		}
		f := strings.Split(rest, "\t") // domain, subdomains, path, secure, expires, name, value
		domain, host := strings.ToLower(strings.TrimPrefix(f[0], ".")), strings.ToLower(u.Hostname())
		under := strings.EqualFold(f[1], "TRUE") && strings.HasSuffix(host, "."+domain)
		where := strings.TrimSuffix(f[2], "/")
		path := u.EscapedPath()
		if (host == domain || under) && (path == where || strings.HasPrefix(path, where+"/")) && (!strings.EqualFold(f[3], "TRUE") || u.Scheme == "https") {
			jar = append(jar, f)
		}
	}
	slices.SortStableFunc(jar, func(a, b []string) int { // RFC 6265 section 5.4, and as curl goes on
		return cmp.Or(len(b[2])-len(a[2]), len(b[0])-len(a[0]), len(b[5])-len(a[5]))
	})
	var sent []string
	for _, f := range jar {
		sent = append(sent, f[5]+"="+f[6])
	}
	joined := strings.Join(sent, "; ")
	if len(pairs) > 0 {
		if joined != "" {
			joined += "; "
		}
		joined += strings.Join(pairs, ";")
	}
	return joined
}

// way applies the options that say where to connect.
func (c *command) way(r *pinpoint.Request) {
	u, err := r.Parsed()
	if err != nil {
		return
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	for _, v := range c.connect { // HOST1:PORT1:HOST2:PORT2, the first that matches
		h1, rest, ok := cutHost(v)
		p1, rest, ok2 := strings.Cut(rest, ":")
		h2, p2, ok3 := cutHost(rest)
		if !ok || !ok2 || !ok3 || h1 != "" && !strings.EqualFold(h1, host) || p1 != "" && p1 != port {
			continue
		}
		r.Via.To = net.JoinHostPort(cmp.Or(h2, host), cmp.Or(p2, port))
		break
	}
	for _, v := range c.resolve { // [+]host:port:addr[,addr]
		h, rest, ok := cutHost(strings.TrimPrefix(v, "+"))
		p, addr, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 || h != "*" && !strings.EqualFold(h, host) || p != port || r.Via.To != "" {
			continue
		}
		addr, _, _ = strings.Cut(addr, ",")
		r.Via.To = net.JoinHostPort(strings.Trim(addr, "[]"), port)
	}
	if c.proxyUser != "" && r.Via.Proxy != "" {
		if p, err := url.Parse(r.Via.Proxy); err == nil && p.Host != "" {
			name, pass, _ := strings.Cut(c.proxyUser, ":")
			p.User = url.UserPassword(name, pass)
			r.Via.Proxy = p.String()
		}
	}
}

// cutHost takes a host, which may be an IPv6 address in brackets, and the colon behind it.
func cutHost(s string) (host, rest string, ok bool) {
	if strings.HasPrefix(s, "[") {
		host, rest, ok = strings.Cut(s[1:], "]")
		if !ok {
			return "", "", false
		}
		rest, ok = strings.CutPrefix(rest, ":")
		return host, rest, ok
	}
	return strings.Cut(s, ":")
}

// asError says whether err is one of this package's.
func asError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}
