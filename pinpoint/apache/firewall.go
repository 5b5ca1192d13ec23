package apache

import (
	"strconv"
	"strings"

	"github.com/whygate/whygate/pinpoint"
)

// Firewall is what the configuration says of mod_security for one request. The rules themselves are
// for a replica to evaluate. https://github.com/owasp-modsecurity/ModSecurity/wiki/Reference-Manual-(v2.x)
type Firewall struct {
	Engine        string // "", "on", "detectiononly", "off"
	At            pinpoint.Place
	BodyAccess    bool
	BodyLimit     int64
	NoFilesLimit  int64
	LimitAction   string // "reject" or "processpartial"
	AuditLog      string
	AuditLogParts string
	Rules         []pinpoint.Place // SecRule and SecAction, in order
	Removed       []string         // arguments of SecRuleRemoveById and its kin
	RemovedAt     []pinpoint.Place
}

func (s *scope) bytes(name string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(s.setting(name), 10, 64); err == nil && n >= 0 {
		return n
	}
	return otherwise
}

func (r *request) firewall() (f Firewall) {
	if !r.c.has("security2") && !r.c.has("security3") {
		return f
	}
	s := r.scope
	f.Engine = lower(s.setting("secruleengine"))
	f.At = s.place("secruleengine")
	f.BodyAccess = s.on("secrequestbodyaccess")
	f.BodyLimit = s.bytes("secrequestbodylimit", 134217728)
	f.NoFilesLimit = s.bytes("secrequestbodynofileslimit", 1048576)
	f.LimitAction = lower(s.setting("secrequestbodylimitaction"))
	if f.LimitAction == "" {
		f.LimitAction = "reject"
	}
	for _, l := range r.srv.logs {
		if l.name == "secauditlog" {
			f.AuditLog = r.c.path(l.arg(0))
		}
	}
	if n := s.setting("secauditlog"); n != "" {
		f.AuditLog = r.c.path(n)
	}
	f.AuditLogParts = s.setting("secauditlogparts")
	for _, d := range s.wafFiles {
		if strings.HasPrefix(d.name, "secruleremove") {
			f.Removed, f.RemovedAt = append(f.Removed, d.args...), append(f.RemovedAt, d.at)
		} else if d.name == "secrule" || d.name == "secaction" {
			f.Rules = append(f.Rules, d.at)
		}
	}
	return f
}

// Firewall says how mod_security is set up for one request.
func (c *Config) Firewall(a pinpoint.Arrival) (f Firewall) {
	if a.Request == nil {
		return f
	}
	ds := &doubts{}
	c.walkWith(a, ds, func(r *request) { f = r.firewall() })
	return f
}

// bodyOfFirewall is mod_security's limits of the body, which it checks after access.
func (r *request) bodyOfFirewall() *refusal {
	f := r.firewall()
	if r.seen != nil {
		r.seen(r)
	}
	if f.Engine == "" || f.Engine == "off" || r.sub {
		return nil
	}
	mode := "refuses what its rules match"
	if f.Engine == "detectiononly" {
		mode = "only reports (DetectionOnly): another hop refused, whatever it logs"
	}
	r.step(f.At, "mod_security is "+f.Engine+" with "+strconv.Itoa(len(f.Rules))+" rules, and "+mode+"; the rules are not evaluated here")
	if f.AuditLog != "" {
		log := pinpoint.LogFile{Path: f.AuditLog, Product: "modsecurity", Kind: "audit", At: r.scope.place("secauditlog")}
		found := false
		for _, l := range r.out.Logs {
			found = found || l.Path == log.Path
		}
		if !found {
			r.out.Logs = append(r.out.Logs, log)
		}
	}
	if f.Engine != "on" || !f.BodyAccess || f.LimitAction != "reject" {
		return nil
	}
	size := r.bodySize()
	ctype := lower(r.header.Value("Content-Type"))
	limit, name := f.BodyLimit, "SecRequestBodyLimit"
	if size <= limit && !strings.HasPrefix(ctype, "multipart/form-data") {
		limit, name = f.NoFilesLimit, "SecRequestBodyNoFilesLimit"
	}
	if size <= limit {
		return nil
	}
	at := r.scope.place(lower(name))
	c := r.clue("waf-body-limit", pinpoint.Certain, at)
	c.Refuser = "modsecurity"
	c.Names["limit"], c.Names["directive"], c.Names["bytes"] = strconv.FormatInt(limit, 10), name, strconv.FormatInt(size, 10)
	c.Says = "The body has " + strconv.FormatInt(size, 10) + " bytes, and " + name + " of mod_security is " + strconv.FormatInt(limit, 10) + " at " + placeText(at) + "."
	c.Fix = []string{"For the paths that take such bodies only, raise " + name + " in a <Location> section; keep it where it is elsewhere."}
	return r.refuse(413, c)
}

// bodySize is the length of the body, as far as it is known.
func (r *request) bodySize() int64 {
	n := int64(len(r.in.Request.Body))
	if v, err := strconv.ParseInt(strings.TrimSpace(r.header.Value("Content-Length")), 10, 64); err == nil && v > n {
		n = v
	}
	return n
}

// bodyLimit is LimitRequestBody, which is checked when the body is read.
func (r *request) bodyLimit() *refusal {
	d := r.scope.set["limitrequestbody"]
	limit := int64(1 << 30) // since 2.4.53
	at := pinpoint.Place{}
	if d != nil {
		limit, at = r.scope.bytes("limitrequestbody", limit), d.at
	}
	size := r.bodySize()
	if limit == 0 || size <= limit {
		return nil
	}
	c := r.clue("body-too-large", pinpoint.Certain, at)
	c.Names["limit"], c.Names["bytes"], c.Names["directive"] = strconv.FormatInt(limit, 10), strconv.FormatInt(size, 10), "LimitRequestBody"
	c.Says = "The body has " + strconv.FormatInt(size, 10) + " bytes, and LimitRequestBody is " + strconv.FormatInt(limit, 10) + " at " + placeText(at) + " (AH01588, at level info)."
	if at.File == "" {
		c.Says = "The body has " + strconv.FormatInt(size, 10) + " bytes, and LimitRequestBody is not set, so it is " + strconv.FormatInt(limit, 10) + "."
	}
	c.Fix = []string{"Raise LimitRequestBody for this path only, to what the application needs."}
	return r.refuse(413, c)
}
