package input

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whygate/whygate/pinpoint"
)

// Bounds of a recording.
const (
	maxHAR        = 512 << 20 // bytes of the file
	maxEntry      = 64 << 20  // bytes of one entry
	maxEntries    = 20_000
	maxKept       = 128 << 20 // bytes of bodies and fields that are kept of all entries
	maxOtherBody  = 64 << 10  // of an answer that is no refusal
	maxChain      = 20        // redirects that are followed back
	maxSiblings   = 20
	maxFields     = 1000
	maxFieldBytes = 1 << 20
)

// Recording is a HAR file (HTTP Archive 1.2) that was read.
type Recording struct {
	// Tool is who wrote it: "WebInspector" is Chrome and Edge.
	Tool string

	entries []*entry
	secret  bool // a cookie or an Authorization stands somewhere
	cut     bool // the file ends early
	left    int  // entries that could not be read
}

// entry is one exchange of a recording.
type entry struct {
	pinpoint.Exchange
	gaps     []pinpoint.Gap
	redirect string // where the answer points
	resource string
}

// text is a string that may be written as another scalar.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0 || b[0] == '{' || b[0] == '[' || string(b) == "null":
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(s)
	default:
		*t = text(b)
	}
	return nil
}

func (t text) number() float64 {
	f, err := strconv.ParseFloat(strings.TrimSpace(string(t)), 64)
	if err != nil || f != f || f > 1e15 || f < -1e15 {
		return -1
	}
	return f
}

// The members of a HAR that are used.
type (
	harPair struct {
		Name        text `json:"name"`
		Value       text `json:"value"`
		FileName    text `json:"fileName"`
		ContentType text `json:"contentType"`
	}
	harEntry struct {
		Started text `json:"startedDateTime"`
		Time    text `json:"time"`
		Request struct {
			Method      text      `json:"method"`
			URL         text      `json:"url"`
			HTTPVersion text      `json:"httpVersion"`
			Headers     []harPair `json:"headers"`
			Cookies     []harPair `json:"cookies"`
			BodySize    text      `json:"bodySize"`
			PostData    *struct {
				MimeType text      `json:"mimeType"`
				Text     *text     `json:"text"`
				Encoding text      `json:"encoding"`
				Params   []harPair `json:"params"`
			} `json:"postData"`
		} `json:"request"`
		Response struct {
			Status      text      `json:"status"`
			HTTPVersion text      `json:"httpVersion"`
			Headers     []harPair `json:"headers"`
			Cookies     []harPair `json:"cookies"`
			RedirectURL text      `json:"redirectURL"`
			Error       text      `json:"_error"`
			Content     struct {
				Size     text  `json:"size"`
				Text     *text `json:"text"`
				Encoding text  `json:"encoding"`
				MimeType text  `json:"mimeType"`
			} `json:"content"`
		} `json:"response"`
		Timings struct {
			Wait text `json:"wait"`
		} `json:"timings"`
		Server   text `json:"serverIPAddress"`
		Resource text `json:"_resourceType"`
		Error    text `json:"_error"`
	}
)

// meter bounds the bytes of one value and of the whole file.
type meter struct {
	r           io.Reader
	value, file int
}

var errTooLong = errors.New("too long")

func (m *meter) Read(p []byte) (int, error) {
	if m.value <= 0 || m.file <= 0 {
		return 0, errTooLong
	}
	n, err := m.r.Read(p[:min(len(p), 256<<10)])
	m.value -= n
	m.file -= n
	return n, err
}

// HAR reads a recording entry by entry. It forgives what the tools of the world get wrong: a BOM,
// numbers as strings, sizes of -1, members of a wrong type, a file that ends early.
func HAR(r io.Reader) (*Recording, error) {
	buffered := bufio.NewReader(r)
	if bom, err := buffered.Peek(3); err == nil && string(bom) == "\ufeff" {
		buffered.Discard(3)
	}
	m := &meter{r: buffered, value: maxEntry, file: maxHAR}
	d := json.NewDecoder(m)
	h := &Recording{}
	kept := 0
	if err := open(d, '{', ""); err != nil {
		return nil, err
	}
	found := false
	err := members(d, m, func(key string) error {
		if key != "log" || found {
			return skip(d, m)
		}
		found = true
		if err := open(d, '{', "log"); err != nil {
			return err
		}
		return members(d, m, func(key string) error {
			switch key {
			case "creator":
				var creator struct{ Name text }
				if err := lenient(d.Decode(&creator)); err != nil {
					return err
				}
				h.Tool = clip(printable(string(creator.Name)), 60)
				return nil
			case "entries":
				if err := open(d, '[', "log.entries"); err != nil {
					return err
				}
				for d.More() {
					if len(h.entries) == maxEntries {
						h.cut = true
						return errEnough
					}
					m.value = maxEntry
					var e harEntry
					if err := lenient(d.Decode(&e)); err != nil {
						return err
					}
					x := e.exchange(&kept)
					if x == nil {
						h.left++
						continue
					}
					h.entries = append(h.entries, x)
					h.secret = h.secret || e.secret()
				}
				_, err := d.Token()
				return err
			}
			return skip(d, m)
		})
	})
	if err != nil && err != errEnough {
		if len(h.entries) == 0 {
			var own *Error
			switch {
			case errors.As(err, &own):
				return nil, own
			case errors.Is(err, errTooLong):
				return nil, &Error{Path: "log", Says: "the recording is too long", Do: "record again with only the refused call"}
			}
			return nil, &Error{Path: "log", Says: fmt.Sprintf("the JSON is broken at byte %d", d.InputOffset()), Do: "export the recording again"}
		}
		h.cut = true
	}
	if len(h.entries) == 0 {
		return nil, &Error{Path: "log.entries", Says: "the recording holds no requests", Do: "open the network panel before the page, repeat the call and export again"}
	}
	return h, nil
}

var errEnough = errors.New("enough")

func open(d *json.Decoder, want json.Delim, path string) error {
	if t, err := d.Token(); err != nil || t != want {
		if errors.Is(err, errTooLong) {
			return err
		}
		return &Error{Path: path, Says: "this is not a HAR file", Do: "export the network panel as HAR with content"}
	}
	return nil
}

// members calls fn for each member of an object whose brace was read.
func members(d *json.Decoder, m *meter, fn func(key string) error) error {
	for d.More() {
		m.value = maxEntry
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		if err := fn(key); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func skip(d *json.Decoder, m *meter) error {
	m.value = maxEntry
	var rest json.RawMessage
	return d.Decode(&rest)
}

// lenient forgives members of a wrong type; the others were read all the same.
func lenient(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return nil
	}
	return err
}

func (e *harEntry) secret() bool {
	if len(e.Request.Cookies)+len(e.Response.Cookies) > 0 {
		return true
	}
	for _, list := range [][]harPair{e.Request.Headers, e.Response.Headers} {
		for _, f := range list {
			switch strings.ToLower(string(f.Name)) {
			case "cookie", "set-cookie", "authorization":
				return true
			}
		}
	}
	return false
}

// protocol is the version in one notation, "" when it is not known.
func protocol(v string) string {
	v = strings.ToUpper(strings.TrimSpace(v))
	switch {
	case v == "H2", v == "H2C", strings.HasPrefix(v, "HTTP/2"):
		return "HTTP/2"
	case strings.HasPrefix(v, "H3"), strings.HasPrefix(v, "HTTP/3"), strings.Contains(v, "QUIC"):
		return "HTTP/3"
	case v == "HTTP/1.1", v == "HTTP/1.0":
		return v
	}
	return ""
}

func harHeader(list []harPair) (h pinpoint.Header) {
	size := 0
	for _, f := range list {
		name := strings.TrimSpace(string(f.Name))
		if !token(name) { // also the pseudo header fields of HTTP/2
			continue
		}
		size += len(name) + len(f.Value)
		if len(h) == maxFields || size > maxFieldBytes {
			break
		}
		// Chrome joins fields of one name with newlines.
		for v := range strings.SplitSeq(string(f.Value), "\n") {
			if len(h) == maxFields {
				break
			}
			h = append(h, pinpoint.Field{Name: name, Value: oneLine(v)})
		}
	}
	return h
}

func (e *harEntry) exchange(kept *int) *entry {
	raw, _, _ := strings.Cut(string(e.Request.URL), "#")
	target, user, hasUser, bad := absolute(raw)
	method := string(e.Request.Method)
	if bad != nil || !token(method) {
		return nil
	}
	x := &entry{resource: string(e.Resource), redirect: string(e.Response.RedirectURL)}
	r := &pinpoint.Request{Method: method, URL: target, Proto: protocol(string(e.Request.HTTPVersion)), Header: harHeader(e.Request.Headers)}
	if u, err := r.Parsed(); err == nil && strings.EqualFold(r.Header.Value("Host"), u.Host) {
		r.Header = r.Header.Without("Host")
	}
	if hasUser && !r.Header.Has("Authorization") {
		name, pass, _ := strings.Cut(user, ":")
		r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(unescape(name)+":"+unescape(pass)))})
	}
	if !r.Header.Has("Cookie") && len(e.Request.Cookies) > 0 {
		var pairs []string
		for _, c := range e.Request.Cookies[:min(len(e.Request.Cookies), maxFields)] {
			pairs = append(pairs, string(c.Name)+"="+string(c.Value))
		}
		if v := strings.Join(pairs, "; "); !strings.ContainsAny(v, "\r\n\x00") && len(v) < maxFieldBytes {
			r.Header = append(r.Header, pinpoint.Field{Name: "Cookie", Value: v})
		}
	}
	e.body(r, x)
	if t, err := time.Parse(time.RFC3339, string(e.Started)); err == nil {
		x.At = t
	}

	a := &pinpoint.Answer{Proto: protocol(string(e.Response.HTTPVersion)), Header: harHeader(e.Response.Headers)}
	if s := e.Response.Status.number(); s >= 100 && s < 1000 {
		a.Status = int(s)
	}
	if took := e.Time.number(); took >= 0 && took < 1e9 && !x.At.IsZero() {
		a.At = x.At.Add(time.Duration(took * float64(time.Millisecond)))
	}
	if wait := e.Timings.Wait.number(); wait > 0 && wait < 1e9 {
		a.FirstByte = time.Duration(wait * float64(time.Millisecond))
	}
	if addr, err := netip.ParseAddr(strings.Trim(string(e.Server), "[]")); err == nil {
		a.Remote = netip.AddrPortFrom(addr.Unmap(), portOf(target))
	}
	if a.Status == 0 {
		a.Err = clip(printable(string(e.Response.Error)), 200)
		if a.Err == "" {
			a.Err = clip(printable(string(e.Error)), 200)
		}
		if a.Err == "" {
			a.Err = "the browser recorded no answer"
		}
	}
	e.content(a, x)
	if x.redirect == "" {
		x.redirect = a.Header.Value("Location")
	}

	// Bodies beyond the budget of the file are dropped, the one of a refusal last.
	*kept += len(r.Body) + len(a.Body) + 512
	for _, h := range []pinpoint.Header{r.Header, a.Header} {
		for _, f := range h {
			*kept += len(f.Name) + len(f.Value)
		}
	}
	if *kept > maxKept && !a.Refused() || *kept > 2*maxKept {
		if a.Body != nil {
			a.Body, a.Cut = nil, true
		}
		if r.Body != nil {
			r.Body = nil
			x.gap("body-cut", "The recording is so large that the body of this request was not kept. Record only the refused call.", true)
		}
		if *kept > 3*maxKept {
			return nil
		}
	}
	x.Request, x.Answer = r, a
	return x
}

func (x *entry) gap(kind, says string, blocks bool) {
	x.gaps = append(x.gaps, pinpoint.Gap{Kind: kind, Says: says, Blocks: blocks})
}

// body takes the body of the request.
func (e *harEntry) body(r *pinpoint.Request, x *entry) {
	p := e.Request.PostData
	if p == nil {
		if size := e.Request.BodySize.number(); size > 0 {
			x.gap("body-cut", fmt.Sprintf("The request had a body of %.0f bytes, which the recording lacks. Copy the request as cURL to have it.", size), true)
		}
		return
	}
	kind := strings.ToLower(string(p.MimeType))
	switch {
	case p.Text != nil && (*p.Text != "" || len(p.Params) == 0):
		body := []byte(*p.Text)
		if strings.EqualFold(string(p.Encoding), "base64") {
			if decoded, err := base64.StdEncoding.DecodeString(string(*p.Text)); err == nil {
				body = decoded
			}
		}
		r.Body = body
		size := e.Request.BodySize.number()
		if n := r.Header.Value("Content-Length"); n != "" {
			size = text(n).number()
		}
		switch {
		case strings.ContainsRune(string(body), utf8.RuneError) && p.Encoding == "":
			x.gap("body-cut", "The body of the request is binary, and the recording spoiled bytes of it. Hand in the body as a file with curl --data-binary.", true)
		case size > float64(len(body)) && r.Header.Value("Content-Encoding") == "":
			x.gap("body-cut", fmt.Sprintf("The body of the request is cut: %d of %.0f bytes are in the recording. Copy the request as cURL to have it whole.", len(body), size), true)
		}
	case strings.HasPrefix(kind, "multipart/"):
		x.gap("body-cut", "The recording lists the parts of the multipart body but not their bytes. Copy the request as cURL to have them.", true)
	case len(p.Params) > 0:
		var pairs []string
		for _, v := range p.Params[:min(len(p.Params), 10_000)] {
			pairs = append(pairs, escaped(string(v.Name))+"="+escaped(string(v.Value)))
		}
		r.Body = []byte(strings.Join(pairs, "&"))
		x.gap("body", "The body of the form was put together from its fields; its escapes may differ from what was sent.", false)
	}
}

// escaped leaves escapes as they are: tools differ in whether they decode params.
func escaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil && u != s {
		return s
	}
	return url.QueryEscape(s)
}

// content takes the body of the answer.
func (e *harEntry) content(a *pinpoint.Answer, x *entry) {
	c := e.Response.Content
	size := c.Size.number()
	if c.Text == nil || *c.Text == "" {
		if size > 0 && a.Status != 0 {
			a.Cut = true
			if a.Refused() {
				x.gap("body-cut", "The text of the answer is not in the recording. Export it with content.", false)
			}
		}
		return
	}
	body := []byte(*c.Text)
	if strings.EqualFold(string(c.Encoding), "base64") {
		clean := strings.NewReplacer("\r", "", "\n", "", " ", "").Replace(string(*c.Text))
		if decoded, err := base64.StdEncoding.DecodeString(clean); err == nil {
			body = decoded
		} else if decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(clean, "=")); err == nil {
			body = decoded
		}
	}
	if size > float64(len(body)) {
		a.Cut = true
	}
	most := pinpoint.MaxBody
	if !a.Refused() {
		most = maxOtherBody
	}
	if len(body) > most {
		body, a.Cut = body[:most], true
	}
	a.Body = append([]byte(nil), body...) // so that the large string can go
}

func portOf(target string) uint16 {
	u, err := url.Parse(target)
	if err != nil {
		return 0
	}
	p := u.Port()
	if p == "" {
		p = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// Choices are the refused entries in their order. An entry without an answer is one when the browser
// says that it failed.
func (h *Recording) Choices() (list []Choice) {
	for i, e := range h.entries {
		if e.Answer.Refused() || e.Answer.Status == 0 {
			list = append(list, Choice{Index: i, Method: e.Request.Method, URL: bare(e.Request.URL), Status: e.Answer.Status, Err: e.Answer.Err, At: e.At})
		}
	}
	return list
}

// disguised are entries whose status is no refusal and whose answer is one: a call of gRPC that was denied, an error
// of GraphQL, the page of a firewall.
func (h *Recording) disguised() (list []Choice) {
	for i, e := range h.entries {
		if i == 500 {
			break
		}
		c := &pinpoint.Case{Source: "har", Exchanges: []pinpoint.Exchange{{Request: e.Request, Answer: e.Answer, At: e.At}}}
		for _, clue := range append(pinpoint.Match(e.Answer), pinpoint.Read(c, e.At)...) {
			if clue.Cause != "" && clue.Cause != "refuser-only" && !clue.Against && clue.Weight >= pinpoint.Fair && clue.Source == pinpoint.FromAnswer {
				list = append(list, Choice{Index: i, Method: e.Request.Method, URL: bare(e.Request.URL), Status: e.Answer.Status, At: e.At})
				break
			}
		}
	}
	return list
}

// Only is the case when one entry was refused; *Ambiguous when there are more.
func (h *Recording) Only() (*pinpoint.Case, error) {
	list := h.Choices()
	if len(list) == 0 {
		list = h.disguised()
	}
	switch len(list) {
	case 0:
		return nil, &Error{Path: "log.entries", Says: fmt.Sprintf("none of the %d requests was refused", len(h.entries)), Do: "name the entry that is meant, or record the refused call"}
	case 1:
		return h.Choose(list[0].Index)
	default:
		return nil, &Ambiguous{list, "choose one by its index"}
	}
}

// Choose builds the case of an entry: with the redirects that led to it, its preflight, the page before
// it and calls on the same path.
func (h *Recording) Choose(index int) (*pinpoint.Case, error) {
	if index < 0 || index >= len(h.entries) {
		return nil, &Error{Path: "log.entries", Says: fmt.Sprintf("there is no entry %d", index), Do: fmt.Sprintf("choose one of 0 to %d", len(h.entries)-1)}
	}
	asked := h.entries[index]
	kinds := map[int]string{index: ""}
	if preflight(asked) {
		kinds[index] = "preflight"
	}
	target := asked.Request.URL
	// Back along the redirects.
	for at, n := index, 0; n < maxChain; n++ {
		from := -1
		for i := at - 1; i >= 0 && i >= at-500; i-- {
			e := h.entries[i]
			if e.Answer.Status >= 300 && e.Answer.Status < 400 && e.redirect != "" && resolve(e.Request.URL, e.redirect) == h.entries[at].Request.URL {
				from = i
				break
			}
		}
		if from < 0 {
			break
		}
		kinds[from], at = "redirect", from
	}
	// The preflight stands before or behind the call; the nearest one counts.
	if kinds[index] == "" {
		best := -1
		for i, e := range h.entries {
			if preflight(e) && e.Request.URL == target && (best < 0 || abs(i-index) < abs(best-index)) {
				best = i
			}
		}
		if best >= 0 {
			kinds[best] = "preflight"
		}
	}
	// The page: the one that Referer names, else the last one of the host.
	ref := asked.Request.Header.Value("Referer")
	page := -1
	for i := index - 1; i >= 0; i-- {
		e := h.entries[i]
		if _, taken := kinds[i]; taken || e.Request.Method != "GET" || !e.html() {
			continue
		}
		if e.Request.URL == ref || strings.TrimSuffix(e.Request.URL, "/") == strings.TrimSuffix(ref, "/") && ref != "" {
			page = i
			break
		}
		if page < 0 && sameHost(e.Request.URL, target) {
			page = i
		}
	}
	if page >= 0 {
		kinds[page] = "page"
	}
	// Siblings: the nearest first.
	prefix := directory(target)
	siblings := 0
	for n := 1; n < len(h.entries) && siblings < maxSiblings; n++ {
		for _, i := range []int{index - n, index + n} {
			if i < 0 || i >= len(h.entries) || siblings == maxSiblings {
				continue
			}
			if _, taken := kinds[i]; !taken && strings.HasPrefix(h.entries[i].Request.URL, prefix) {
				siblings++
				kinds[i] = "fetch"
				if preflight(h.entries[i]) {
					kinds[i] = "preflight"
				}
			}
		}
	}
	// Answers that set cookies for the site, a login before all: what was sent is held against them.
	for i, n := index-1, 0; i >= 0 && n < maxSiblings/2; i-- {
		if _, taken := kinds[i]; !taken && h.entries[i].Answer.Header.Has("Set-Cookie") && sameSite(h.entries[i].Request.URL, target) {
			n++
			kinds[i] = "fetch"
		}
	}
	var order []int
	for i := range kinds {
		order = append(order, i)
	}
	slices.Sort(order)
	c := &pinpoint.Case{Source: "har", Gaps: slices.Clone(asked.gaps)}
	for n, i := range order {
		x := h.entries[i].Exchange
		x.Request = x.Request.Clone()
		answer := *x.Answer
		x.Answer = &answer
		x.Kind = kinds[i]
		if i == index {
			c.Asked = n
		}
		c.Exchanges = append(c.Exchanges, x)
	}
	h.judge(asked, c)
	return c, nil
}

// judge adds what the recording as a whole lacks.
func (h *Recording) judge(asked *entry, c *pinpoint.Case) {
	gap := func(kind, says string, blocks bool) {
		c.Gaps = append(c.Gaps, pinpoint.Gap{Kind: kind, Says: says, Blocks: blocks})
	}
	tool := strings.ToLower(h.Tool)
	browser := strings.Contains(tool, "webinspector") || strings.Contains(tool, "webkit") || strings.Contains(tool, "firefox")
	// A preflight never has credentials (Fetch Standard, CORS-preflight fetch).
	if strings.Contains(tool, "webinspector") && !h.secret && !preflight(asked) {
		gap("sanitized", "The recording holds no Cookie, no Set-Cookie and no Authorization: Chrome and Edge leave them out of the usual export. Export it with sensitive data (DevTools settings, Network), or hand in the credentials.", true)
	}
	if !asked.Request.Header.Has("User-Agent") && len(asked.Request.Header) < 6 {
		gap("provisional-headers", "The request has few fields and no User-Agent: the browser recorded what it meant to send, not what was sent. Record the call again with the network panel open.", browser)
	}
	if h.cut {
		gap("recording", "The recording ends early or is longer than what is read; exchanges may be missing.", false)
	}
	if h.left > 0 {
		gap("recording", fmt.Sprintf("%d entries of the recording are no HTTP requests or too large, and were left out.", h.left), false)
	}
}

func preflight(e *entry) bool {
	return e.Request.Method == "OPTIONS" && e.Request.Header.Has("Access-Control-Request-Method") || e.resource == "preflight"
}

func (e *entry) html() bool {
	kind := strings.ToLower(e.Answer.Header.Value("Content-Type"))
	return e.resource == "document" || strings.HasPrefix(kind, "text/html") || strings.HasPrefix(kind, "application/xhtml")
}

// resolve is where a Location points, without its fragment (RFC 9110 section 10.2.2).
func resolve(base, location string) string {
	b, err := url.Parse(base)
	if err != nil {
		return ""
	}
	l, err := b.Parse(location)
	if err != nil {
		return ""
	}
	l.Fragment, l.RawFragment = "", ""
	if l.Path == "" {
		l.Path = "/"
	}
	return l.String()
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	return err == nil && err2 == nil && u.Host == v.Host
}

// sameSite says that the hosts of two URLs are one, or one below the other's parent, whatever the scheme.
func sameSite(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	if err != nil || err2 != nil {
		return false
	}
	x, y := strings.ToLower(u.Hostname()), strings.ToLower(v.Hostname())
	px, nx, _ := strings.Cut(x, ".")
	py, ny, _ := strings.Cut(y, ".")
	return px != "" && py != "" && (x == y || nx == y || ny == x || nx == ny && strings.Contains(nx, "."))
}

// directory is a URL up to the last slash of its path.
func directory(u string) string {
	u, _, _ = strings.Cut(u, "?")
	return u[:strings.LastIndexByte(u, '/')+1]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
