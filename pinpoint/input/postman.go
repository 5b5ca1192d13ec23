package input

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/whygate/whygate/pinpoint"
)

// postmanAgent stands for the User-Agent of the app, which changes with its version.
const postmanAgent = "PostmanRuntime/7.43.0"

// Collection is a Postman collection of format 2.0 or 2.1
// (schema.getpostman.com/json/collection/v2.1.0/collection.json).
type Collection struct {
	Files Files // permits files that bodies name

	items     []*postmanItem
	variables map[string]string
}

// postmanItem is a request with what it inherits.
type postmanItem struct {
	name     string // with its folders: "Orders / Create"
	path     string // in the JSON
	request  postmanRequest
	auth     *postmanAuth
	before   []string // sources of the pre-request scripts
	examples []postmanExample
	hidden   map[string]bool // system headers that are switched off
}

type (
	postmanNode struct {
		Name     text             `json:"name"`
		Item     []postmanNode    `json:"item"`
		Request  json.RawMessage  `json:"request"`
		Response []postmanExample `json:"response"`
		Auth     *postmanAuth     `json:"auth"`
		Event    []postmanEvent   `json:"event"`
		Variable []postmanPair    `json:"variable"`
		Behavior struct {
			Disabled map[string]bool `json:"disabledSystemHeaders"`
		} `json:"protocolProfileBehavior"`
	}
	postmanEvent struct {
		Listen   text `json:"listen"`
		Disabled bool `json:"disabled"`
		Script   struct {
			Exec lines `json:"exec"`
		} `json:"script"`
	}
	postmanPair struct {
		Key      text            `json:"key"`
		ID       text            `json:"id"`
		Value    text            `json:"value"`
		Disabled bool            `json:"disabled"`
		Enabled  *bool           `json:"enabled"` // of an environment
		Type     text            `json:"type"`
		Src      json.RawMessage `json:"src"`
		Kind     text            `json:"contentType"`
	}
	postmanRequest struct {
		Method text         `json:"method"`
		URL    postmanURL   `json:"url"`
		Header pairs        `json:"header"`
		Auth   *postmanAuth `json:"auth"`
		Body   *struct {
			Mode       text          `json:"mode"`
			Raw        text          `json:"raw"`
			URLEncoded pairs         `json:"urlencoded"`
			FormData   []postmanPair `json:"formdata"`
			File       struct {
				Src     text `json:"src"`
				Content text `json:"content"`
			} `json:"file"`
			GraphQL struct {
				Query     text            `json:"query"`
				Operation text            `json:"operationName"`
				Variables json.RawMessage `json:"variables"`
			} `json:"graphql"`
			Options struct {
				Raw struct {
					Language text `json:"language"`
				} `json:"raw"`
			} `json:"options"`
			Disabled bool `json:"disabled"`
		} `json:"body"`
	}
	postmanURL struct {
		Raw      text          `json:"raw"`
		Protocol text          `json:"protocol"`
		Host     joined        `json:"host"`
		Port     text          `json:"port"`
		Path     joined        `json:"path"`
		Query    []postmanPair `json:"query"`
		Variable []postmanPair `json:"variable"`
	}
	postmanExample struct {
		Name   text  `json:"name"`
		Code   text  `json:"code"`
		Header pairs `json:"header"`
		Body   text  `json:"body"`
	}
	// postmanAuth is {type, TYPE: [{key, value}]}, in format 2.0 {type, TYPE: {key: value}}.
	postmanAuth struct {
		kind   string
		values map[string]string
	}
	lines  string   // a string or a list of lines
	joined []string // a string or a list of segments
	pairs  []postmanPair
)

func (l *lines) UnmarshalJSON(b []byte) error {
	var list []text
	if len(b) > 0 && b[0] == '[' {
		if err := lenient(json.Unmarshal(b, &list)); err != nil {
			return err
		}
	} else {
		list = make([]text, 1)
		if err := json.Unmarshal(b, &list[0]); err != nil {
			return err
		}
	}
	var out strings.Builder
	for _, s := range list {
		out.WriteString(string(s) + "\n")
	}
	*l = lines(out.String())
	return nil
}

func (j *joined) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		var s text
		err := json.Unmarshal(b, &s)
		*j = joined{strings.TrimPrefix(string(s), "/")}
		return err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for _, raw := range list {
		var s text
		if len(raw) > 0 && raw[0] == '{' { // {type, value}
			var p postmanPair
			if err := lenient(json.Unmarshal(raw, &p)); err != nil {
				return err
			}
			s = p.Value
		} else if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		*j = append(*j, string(s))
	}
	return nil
}

// UnmarshalJSON reads a list of pairs or text with a pair per line.
func (p *pairs) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var list []postmanPair
		err := lenient(json.Unmarshal(b, &list))
		*p = list
		return err
	}
	var s text
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(s), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			*p = append(*p, postmanPair{Key: text(strings.TrimSpace(k)), Value: text(strings.TrimSpace(v))})
		}
	}
	return nil
}

func (u *postmanURL) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		type plain postmanURL
		return lenient(json.Unmarshal(b, (*plain)(u)))
	}
	return json.Unmarshal(b, &u.Raw)
}

func (a *postmanAuth) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	if err := lenient(json.Unmarshal(b, &members)); err != nil {
		return err
	}
	var kind text
	if raw := members["type"]; raw != nil {
		if err := json.Unmarshal(raw, &kind); err != nil {
			return err
		}
	}
	a.kind, a.values = strings.ToLower(string(kind)), map[string]string{}
	raw := members[string(kind)]
	if len(raw) == 0 {
		return nil
	}
	if raw[0] == '[' {
		var list []postmanPair
		if err := lenient(json.Unmarshal(raw, &list)); err != nil {
			return err
		}
		for _, p := range list {
			a.values[string(p.Key)] = string(p.Value)
		}
		return nil
	}
	var object map[string]text
	if err := lenient(json.Unmarshal(raw, &object)); err != nil {
		return err
	}
	for k, v := range object {
		a.values[k] = string(v)
	}
	return nil
}

// Postman reads a collection and, if there is one, an environment. Scripts are never run.
func Postman(collection, environment []byte) (*Collection, error) {
	if len(collection) > maxText || len(environment) > maxText {
		return nil, tooLong()
	}
	var root postmanNode
	var envelope struct {
		Info       json.RawMessage `json:"info"`
		Collection json.RawMessage `json:"collection"` // the API of Postman wraps it
	}
	collection = trimBOM(collection)
	if err := lenient(json.Unmarshal(collection, &envelope)); err != nil {
		return nil, jsonError(collection, err, "export the collection again as Collection v2.1")
	}
	if envelope.Info == nil && envelope.Collection != nil {
		collection = envelope.Collection
	}
	if err := lenient(json.Unmarshal(collection, &root)); err != nil {
		return nil, jsonError(collection, err, "export the collection again as Collection v2.1")
	}
	c := &Collection{variables: map[string]string{}}
	c.define(root.Variable)
	if len(environment) > 0 {
		var env struct {
			Values []postmanPair `json:"values"`
		}
		environment = trimBOM(environment)
		if err := lenient(json.Unmarshal(environment, &env)); err != nil {
			return nil, jsonError(environment, err, "export the environment again")
		}
		c.define(env.Values)
	}
	if err := c.walk(root.Item, postmanItem{auth: root.Auth, before: scripts(root.Event)}, "item", 0); err != nil {
		return nil, err
	}
	if len(c.items) == 0 {
		return nil, &Error{Path: "item", Says: "the collection holds no requests", Do: "export it as Collection v2.1"}
	}
	return c, nil
}

func trimBOM(b []byte) []byte {
	return []byte(strings.TrimPrefix(string(b), "\ufeff"))
}

// jsonError gives the place, and never quotes the text.
func jsonError(b []byte, err error, do string) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return at(string(b), int(syntax.Offset)-1, "the JSON is broken", do)
	}
	return &Error{Says: "the JSON has another shape than expected", Do: do}
}

func (c *Collection) define(list []postmanPair) {
	for _, v := range list {
		name := string(v.Key)
		if name == "" {
			name = string(v.ID)
		}
		if !v.Disabled && (v.Enabled == nil || *v.Enabled) && len(c.variables) < 10_000 {
			c.variables[name] = string(v.Value)
		}
	}
}

func scripts(events []postmanEvent) (sources []string) {
	for _, e := range events {
		if e.Listen == "prerequest" && !e.Disabled && strings.TrimSpace(string(e.Script.Exec)) != "" {
			sources = append(sources, string(e.Script.Exec))
		}
	}
	return sources
}

func (c *Collection) walk(nodes []postmanNode, above postmanItem, where string, depth int) error {
	if depth > maxDepth {
		return &Error{Path: where, Says: "the folders are nested too deeply", Do: "export the one folder alone"}
	}
	for i, n := range nodes {
		here := fmt.Sprintf("%s[%d]", where, i)
		item := above
		item.path = here
		item.name = strings.TrimPrefix(above.name+" / "+clip(printable(string(n.Name)), 200), " / ")
		if n.Auth != nil {
			item.auth = n.Auth
		}
		item.before = append(above.before[:len(above.before):len(above.before)], scripts(n.Event)...)
		item.hidden = n.Behavior.Disabled
		if n.Request == nil {
			c.define(n.Variable)
			if err := c.walk(n.Item, item, here+".item", depth+1); err != nil {
				return err
			}
			continue
		}
		if n.Request[0] == '"' {
			if err := json.Unmarshal(n.Request, &item.request.URL.Raw); err != nil {
				continue
			}
		} else if err := lenient(json.Unmarshal(n.Request, &item.request)); err != nil {
			return &Error{Path: here + ".request", Says: "the request has another shape than expected", Do: "export the collection as Collection v2.1"}
		}
		if item.request.Auth != nil {
			item.auth = item.request.Auth
		}
		item.examples = n.Response
		if len(c.items) == maxEntries {
			return &Error{Path: here, Says: "the collection has more than 20,000 requests", Do: "export the one folder alone"}
		}
		c.items = append(c.items, &item)
	}
	return nil
}

// Choices are all requests of the collection, with the status of the saved answer.
func (c *Collection) Choices() (list []Choice) {
	for i, it := range c.items {
		list = append(list, it.choice(i))
	}
	return list
}

func (it *postmanItem) choice(index int) Choice {
	c := Choice{Index: index, Name: it.name, Method: it.method(), URL: bare(string(it.request.URL.Raw))}
	if a := it.answer(); a != nil {
		c.Status = a.Status
	}
	return c
}

// Only is the case of the one request, or of the one that has a refusal saved with it.
func (c *Collection) Only() (*pinpoint.Case, error) {
	if len(c.items) == 1 {
		return c.build(c.items[0])
	}
	var refused []*postmanItem
	for _, it := range c.items {
		if it.answer().Refused() {
			refused = append(refused, it)
		}
	}
	if len(refused) == 1 {
		return c.build(refused[0])
	}
	return nil, &Ambiguous{c.Choices(), "choose one by its name"}
}

// Choose finds a request by its name, or by its folders and name with slashes.
func (c *Collection) Choose(name string) (*pinpoint.Case, error) {
	plain := func(s string) string {
		var parts []string
		for p := range strings.SplitSeq(s, "/") {
			parts = append(parts, strings.ToLower(strings.TrimSpace(p)))
		}
		return strings.Join(parts, "/")
	}
	want := plain(name)
	var found []*postmanItem
	var choices []Choice
	for i, it := range c.items {
		full := plain(it.name)
		if full == want || strings.HasSuffix(full, "/"+want) {
			found = append(found, it)
			choices = append(choices, it.choice(i))
			if len(choices) == 50 {
				break
			}
		}
	}
	switch len(found) {
	case 1:
		return c.build(found[0])
	case 0:
		close, least := "", 1<<30
		wanted := clip(want[strings.LastIndexByte(want, '/')+1:], 100)
		for _, it := range c.items[:min(len(c.items), 2000)] {
			last := plain(it.name)
			if d := distance(wanted, clip(last[strings.LastIndexByte(last, '/')+1:], 100)); d < least {
				close, least = clip(it.name, 200), d
			}
		}
		return nil, &Error{Path: "item", Says: "no request has the name " + strconv.Quote(clip(printable(name), 80)), Do: "did you mean " + strconv.Quote(close) + "?"}
	}
	return nil, &Ambiguous{choices, "write its folders too"}
}

// Pick builds the case of one of the Choices.
func (c *Collection) Pick(index int) (*pinpoint.Case, error) {
	if index < 0 || index >= len(c.items) {
		return nil, &Error{Path: "item", Says: fmt.Sprintf("there is no request %d", index), Do: fmt.Sprintf("choose one of 0 to %d", len(c.items)-1)}
	}
	return c.build(c.items[index])
}

func (it *postmanItem) method() string {
	if m := strings.ToUpper(strings.TrimSpace(string(it.request.Method))); m != "" {
		return m
	}
	return "GET"
}

// answer is the saved example that is a refusal, else the first.
func (it *postmanItem) answer() *pinpoint.Answer {
	var first *pinpoint.Answer
	for _, e := range it.examples {
		code := int(e.Code.number())
		if code < 100 || code > 999 {
			continue
		}
		a := &pinpoint.Answer{Status: code, Body: []byte(e.Body)}
		if len(a.Body) > pinpoint.MaxBody {
			a.Body, a.Cut = a.Body[:pinpoint.MaxBody], true
		}
		for _, f := range e.Header {
			if token(string(f.Key)) && len(a.Header) < maxFields {
				a.Header = append(a.Header, pinpoint.Field{Name: string(f.Key), Value: oneLine(string(f.Value))})
			}
		}
		if a.Refused() {
			return a
		}
		if first == nil {
			first = a
		}
	}
	return first
}

func oneLine(s string) string {
	return strings.TrimSpace(strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ").Replace(s))
}

var braces = regexp.MustCompile(`\{\{\s*([^{}]{1,200}?)\s*\}\}`)

// filler replaces {{name}}, and remembers which names nobody defined.
type filler struct {
	values  map[string]string
	missing map[string]bool
	changes map[string]bool // names whose value is new on each call
	size    int
}

func newFiller(values map[string]string) *filler {
	return &filler{values, map[string]bool{}, map[string]bool{}, 0}
}

func (f *filler) fill(s string) string { return f.deep(s, 0) }

func (f *filler) deep(s string, depth int) string {
	if depth > 8 || !strings.Contains(s, "{{") {
		return s
	}
	return braces.ReplaceAllStringFunc(s, func(m string) string {
		name := braces.FindStringSubmatch(m)[1]
		v, ok := f.values[name]
		if !ok {
			v, ok = f.dynamic(name)
		}
		if !ok || f.size+len(v) > maxText {
			if len(f.missing) < 50 {
				f.missing[clip(printable(name), 60)] = true
			}
			return m
		}
		f.size += len(v)
		return f.deep(v, depth+1)
	})
}

// dynamic makes the values that Postman and .http clients make anew for each call.
func (f *filler) dynamic(name string) (string, bool) {
	switch name, _, _ := strings.Cut(name, " "); name {
	case "$guid", "$randomUUID", "$uuid", "$random.uuid":
		f.changes[name] = true
		var b [16]byte
		rand.Read(b[:])
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 9562 section 5.4
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), true
	case "$timestamp":
		f.changes[name] = true
		return strconv.FormatInt(time.Now().Unix(), 10), true
	case "$isoTimestamp":
		f.changes[name] = true
		return time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), true
	case "$randomInt":
		f.changes[name] = true
		var b [1]byte
		rand.Read(b[:])
		return strconv.Itoa(int(b[0])), true
	}
	return "", false
}

func (f *filler) gaps(how string) (gaps []pinpoint.Gap) {
	if len(f.missing) > 0 {
		gaps = append(gaps, pinpoint.Gap{Kind: "variable", Blocks: true,
			Says: fmt.Sprintf("No value is known for %s. %s", names(f.missing), how)})
	}
	if len(f.changes) > 0 {
		gaps = append(gaps, pinpoint.Gap{Kind: "variable",
			Says: fmt.Sprintf("%s is new on each call; the value here is not the one that was refused.", names(f.changes))})
	}
	return gaps
}

func (c *Collection) build(it *postmanItem) (*pinpoint.Case, error) {
	f := newFiller(c.variables)
	out := &pinpoint.Case{Source: "postman"}
	gap := func(kind, says string, blocks bool) {
		out.Gaps = append(out.Gaps, pinpoint.Gap{Kind: kind, Says: says, Blocks: blocks})
	}
	r := &pinpoint.Request{Method: it.method()}
	if !token(r.Method) {
		return nil, &Error{Path: it.path + ".request.method", Says: "the method is not a token", Do: "set it in Postman"}
	}
	target := f.fill(it.request.URL.text(f))
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	target = nowhere(target)
	target, user, hasUser, bad := absolute(urlBytes(target))
	if bad != nil {
		bad.Path = it.path + ".request.url"
		return nil, bad
	}
	r.URL = target

	for _, h := range it.request.Header {
		k, v := strings.TrimSpace(f.fill(string(h.Key))), oneLine(f.fill(string(h.Value)))
		if !h.Disabled && token(k) && len(r.Header) < maxFields {
			r.Header = append(r.Header, pinpoint.Field{Name: k, Value: v})
		}
	}
	if u, err := r.Parsed(); err == nil && strings.EqualFold(r.Header.Value("Host"), u.Host) {
		r.Header = r.Header.Without("Host")
	}
	auth := it.auth
	if auth != nil && !r.Header.Has("Authorization") {
		v := func(k string) string { return oneLine(f.fill(auth.values[k])) }
		field := func(name, value string) {
			if token(name) {
				r.Header = append(r.Header, pinpoint.Field{Name: name, Value: value})
			}
		}
		switch auth.kind {
		case "", "noauth":
		case "bearer":
			field("Authorization", "Bearer "+v("token"))
		case "basic":
			field("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(v("username")+":"+v("password"))))
			hasUser = false
		case "apikey":
			if v("in") == "query" {
				r.URL = addQuery(r.URL, url.QueryEscape(v("key"))+"="+url.QueryEscape(v("value")))
			} else {
				field(v("key"), v("value"))
			}
		case "oauth2":
			switch {
			case v("accessToken") == "":
				gap("variable", "The request logs in with OAuth 2, and the collection holds no access token. Hand in the Authorization field that was sent.", true)
			case v("addTokenTo") == "queryParams":
				r.URL = addQuery(r.URL, "access_token="+url.QueryEscape(v("accessToken")))
			default:
				prefix := "Bearer"
				if p, ok := auth.values["headerPrefix"]; ok {
					prefix = oneLine(p)
				}
				field("Authorization", strings.TrimSpace(prefix+" "+v("accessToken")))
			}
		default:
			gap("signature", fmt.Sprintf("Postman would compute the credentials (%s) for each call. Hand in the request as it was sent, from its console.", clip(printable(auth.kind), 30)), true)
		}
	}
	if hasUser && !r.Header.Has("Authorization") {
		name, pass, _ := strings.Cut(user, ":")
		r.Header = append(r.Header, pinpoint.Field{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(unescape(name)+":"+unescape(pass)))})
	}

	if kind := c.body(it, r, f, gap); kind != "" && !r.Header.Has("Content-Type") && !it.off("content-type") {
		r.Header = append(r.Header, pinpoint.Field{Name: "Content-Type", Value: kind})
	}
	for _, h := range []pinpoint.Field{{Name: "User-Agent", Value: postmanAgent}, {Name: "Accept", Value: "*/*"},
		{Name: "Cache-Control", Value: "no-cache"}, {Name: "Accept-Encoding", Value: "gzip, deflate, br"}} {
		if !r.Header.Has(h.Name) && !it.off(strings.ToLower(h.Name)) {
			r.Header = append(r.Header, h)
		}
	}
	out.Gaps = append(out.Gaps, f.gaps("Hand in the environment file, or set the value in the collection.")...)
	if len(it.before) > 0 {
		changes := false
		for _, s := range it.before {
			for _, word := range []string{"pm.request", "request.headers", "environment.set", "variables.set", "globals.set", "collectionVariables.set", "setEnvironmentVariable", "setGlobalVariable"} {
				changes = changes || strings.Contains(s, word)
			}
		}
		if changes {
			gap("script", "A pre-request script changes the request or its variables, and scripts are not run. Hand in the request as it was sent, from Postman's console.", true)
		} else {
			gap("script", "A pre-request script belongs to the request, and scripts are not run.", false)
		}
	}
	x := pinpoint.Exchange{Request: r, Answer: it.answer()}
	if x.Answer == nil {
		out.Gaps = append(out.Gaps, noAnswer())
	}
	if _, err := r.Parsed(); err != nil {
		return nil, &Error{Path: it.path + ".request.url", Says: "the URL is malformed", Do: "check it in Postman"}
	}
	out.Exchanges = []pinpoint.Exchange{x}
	return out, nil
}

// nowhere gives a URL whose host depends on a variable without a value a name that nobody has (RFC 2606, section 2): the
// answer that was kept can be read, and nothing can be sent.
func nowhere(u string) string {
	scheme, rest, _ := strings.Cut(u, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	host, tail := rest[:end], rest[end:]
	if !strings.Contains(host, "{{") {
		return u
	}
	host = braces.ReplaceAllStringFunc(host[strings.LastIndexByte(host, '@')+1:], func(m string) string {
		return strings.Map(func(r rune) rune {
			if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
				return unicode.ToLower(r)
			}
			return '-'
		}, strings.Trim(m, "{} "))
	})
	host, _, _ = strings.Cut(host, ":")
	return scheme + "://" + strings.Trim(host[:min(len(host), 200)], ".-") + ".invalid" + tail
}

func (it *postmanItem) off(name string) bool { return it.hidden[name] }

func addQuery(u, pair string) string {
	if strings.Contains(u, "?") {
		return u + "&" + pair
	}
	return u + "?" + pair
}

// urlBytes escapes what cannot stand in a URL, and nothing else.
func urlBytes(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// text puts the URL together. The raw form leads; without it the parts do.
func (u *postmanURL) text(f *filler) string {
	raw := strings.TrimSpace(string(u.Raw))
	if raw == "" && len(u.Host) > 0 {
		raw = strings.Join(u.Host, ".")
		if u.Port != "" {
			raw += ":" + string(u.Port)
		}
		if u.Protocol != "" {
			raw = string(u.Protocol) + "://" + raw
		}
		raw += "/" + strings.Join(u.Path, "/")
		mark := "?"
		for _, q := range u.Query {
			if !q.Disabled {
				raw += mark + string(q.Key) + "=" + string(q.Value)
				mark = "&"
			}
		}
	}
	if len(u.Variable) == 0 {
		return raw
	}
	base, query, hasQuery := strings.Cut(raw, "?")
	segments := strings.Split(base, "/")
	for i, s := range segments {
		if name, ok := strings.CutPrefix(s, ":"); ok && name != "" && i > 0 {
			for _, v := range u.Variable {
				if string(v.Key) == name || v.Key == "" && string(v.ID) == name {
					segments[i] = url.PathEscape(f.fill(string(v.Value)))
				}
			}
		}
	}
	base = strings.Join(segments, "/")
	if hasQuery {
		base += "?" + query
	}
	return base
}

// body sets the body and returns its media type.
func (c *Collection) body(it *postmanItem, r *pinpoint.Request, f *filler, gap func(kind, says string, blocks bool)) string {
	b := it.request.Body
	if b == nil || b.Disabled {
		return ""
	}
	file := func(name string) []byte {
		body, err := c.Files.read(name)
		if err != nil {
			g := fileGap("The body", name, err)
			gap(g.Kind, g.Says, g.Blocks)
			return nil
		}
		return body
	}
	switch strings.ToLower(string(b.Mode)) {
	case "raw":
		if b.Raw == "" {
			return ""
		}
		r.Body = []byte(f.fill(string(b.Raw)))
		switch b.Options.Raw.Language {
		case "json":
			return "application/json"
		case "xml":
			return "application/xml"
		case "html":
			return "text/html"
		case "javascript":
			return "application/javascript"
		}
		return "text/plain"
	case "urlencoded":
		var list []string
		for _, p := range b.URLEncoded {
			if !p.Disabled {
				list = append(list, url.QueryEscape(f.fill(string(p.Key)))+"="+url.QueryEscape(f.fill(string(p.Value))))
			}
		}
		r.Body = []byte(strings.Join(list, "&"))
		return "application/x-www-form-urlencoded"
	case "formdata":
		var parts []formPart
		for _, p := range b.FormData {
			if p.Disabled || len(parts) == 1000 {
				continue
			}
			part := formPart{name: f.fill(string(p.Key)), kind: oneLine(string(p.Kind))}
			if p.Type == "file" {
				var src joined
				if len(p.Src) > 0 && json.Unmarshal(p.Src, &src) == nil && len(src) > 0 && src[0] != "" {
					name := src[0]
					if len(p.Src) > 1 && p.Src[0] == '"' && strings.HasPrefix(string(p.Src[1:]), "/") {
						name = "/" + name
					}
					part.content, part.filename = file(name), path.Base(strings.ReplaceAll(name, `\`, "/"))
				} else {
					gap("file-not-read", "A file of the form is not in the collection. Hand in the request as it was sent.", true)
				}
				part.isFile = true
				if part.kind == "" {
					part.kind = kindOf(part.filename)
				}
			} else {
				part.content = []byte(f.fill(string(p.Value)))
			}
			parts = append(parts, part)
		}
		var kind string
		kind, r.Body = multipart(parts)
		return kind
	case "file":
		switch {
		case b.File.Content != "":
			r.Body = []byte(b.File.Content)
		case b.File.Src != "":
			r.Body = file(string(b.File.Src))
		default:
			gap("file-not-read", "The file of the body is not in the collection. Hand it in with curl --data-binary.", true)
		}
		return "application/octet-stream"
	case "graphql":
		members := &jsObject{keys: []string{"query"}, values: []any{f.fill(string(b.GraphQL.Query))}}
		if b.GraphQL.Operation != "" {
			members.keys, members.values = append(members.keys, "operationName"), append(members.values, string(b.GraphQL.Operation))
		}
		variables := b.GraphQL.Variables
		if len(variables) > 0 && variables[0] == '"' {
			var s string
			if json.Unmarshal(variables, &s) == nil {
				variables = json.RawMessage(f.fill(s))
			}
		}
		if !json.Valid(variables) {
			variables = json.RawMessage("{}")
		}
		members.keys, members.values = append(members.keys, "variables"), append(members.values, variables)
		body, err := plainJSON(members)
		if err != nil {
			gap("body", "The GraphQL body could not be put together. Hand in the request as it was sent.", true)
			return ""
		}
		r.Body = body
		return "application/json"
	}
	return ""
}
