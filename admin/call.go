package admin

import (
	"net/netip"
	"strings"
	"time"

	"github.com/whygate/whygate/calllog"
	"github.com/whygate/whygate/gateway"
	"github.com/whygate/whygate/reason"
)

// Call is a call record as JSON tells it, to commands and to other programs.
type Call struct {
	ID       calllog.ID `json:"id"`
	Start    time.Time  `json:"start"`
	Duration float64    `json:"duration"` // seconds, as all durations here
	Decide   float64    `json:"decide"`
	Wait     float64    `json:"wait,omitempty"`
	Status   int        `json:"status"`
	Outcome  string     `json:"outcome"` // allowed, relayed, refused, failed or answered
	Node     string     `json:"node,omitempty"`
	Flags    []string   `json:"flags,omitempty"`

	Method   string `json:"method"`
	Host     string `json:"host"`
	Path     string `json:"path"`
	Protocol string `json:"protocol"`
	Listener string `json:"listener"`

	API     string `json:"api,omitempty"`
	Version string `json:"version,omitempty"`
	Stage   string `json:"stage,omitempty"`
	Route   string `json:"route,omitempty"`

	Application  string `json:"application,omitempty"`
	Credential   string `json:"credential,omitempty"`
	Subscription string `json:"subscription,omitempty"`
	Plan         string `json:"plan,omitempty"`
	Remaining    *int32 `json:"remaining,omitempty"` // of the tightest limit

	Upstream string `json:"upstream,omitempty"`
	Target   string `json:"target,omitempty"`
	Tries    int    `json:"tries,omitempty"`

	Client    netip.Addr `json:"client"`
	Peer      netip.Addr `json:"peer"`
	RequestID string     `json:"requestId,omitempty"`
	UserAgent string     `json:"userAgent,omitempty"`
	Trace     string     `json:"trace,omitempty"`

	BytesIn  int64  `json:"bytesIn"`
	BytesOut int64  `json:"bytesOut"`
	Revision uint64 `json:"revision"`

	Reason string `json:"reason,omitempty"`
	Check  string `json:"check,omitempty"`
	Step   int    `json:"step,omitempty"`
	Steps  int    `json:"steps,omitempty"`

	// Told is the explanation in words, for the operator; Detail what it was made of.
	Told   *reason.Told    `json:"told,omitempty"`
	Detail *gateway.Detail `json:"detail,omitempty"`
}

var outcomes = gateway.Outcomes()

var flagNames = []struct {
	flag calllog.Flags
	name string
}{
	{calllog.Streamed, "streamed"}, {calllog.Upgraded, "upgraded"}, {calllog.ClientGone, "client-gone"}, {calllog.Truncated, "truncated"},
	{calllog.Shadowed, "shadowed"}, {calllog.Hinted, "hinted"}, {calllog.Retried, "retried"}, {calllog.Panicked, "panicked"}, {calllog.TLS, "tls"},
}

// CallOf puts a record into the form that is told. full adds the detail.
func CallOf(r *calllog.Record, full bool) Call {
	c := Call{
		ID: r.ID, Start: r.Start, Duration: r.Duration.Seconds(), Decide: r.Decide.Seconds(), Wait: r.Wait.Seconds(),
		Status: int(r.Status), Outcome: gateway.OutcomeName(r.Outcome),
		Method: r.Method, Host: r.Host, Path: r.Path, Listener: r.Listener,
		Protocol: map[uint8]string{10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}[r.Proto],
		API:      r.API, Version: r.Version, Stage: r.Stage, Route: r.Route,
		Application: r.Application, Credential: r.Credential, Subscription: r.Subscription, Plan: r.Plan,
		Upstream: r.Upstream, Target: r.Target, Tries: int(r.Tries),
		Client: r.Client, Peer: r.Peer, RequestID: r.RequestID, UserAgent: r.UserAgent, Trace: r.Trace,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut, Revision: r.Revision,
		Reason: r.Reason, Check: r.Check, Step: int(r.Step), Steps: int(r.Steps),
	}
	for _, f := range flagNames {
		if r.Flags&f.flag != 0 {
			c.Flags = append(c.Flags, f.name)
		}
	}
	if r.Remaining >= 0 {
		c.Remaining = &r.Remaining
	}
	if !full {
		return c
	}
	if d, err := gateway.DecodeDetail(r.Detail); err == nil {
		c.Detail = &d
		if d.Verdict != nil && d.Verdict.Reason != nil {
			told := d.Verdict.Tell(reason.ToOperator)
			c.Told = &told
		}
	}
	return c
}

// Has says that the call carries a flag.
func (c *Call) Has(flag string) bool {
	return strings.Contains(" "+strings.Join(c.Flags, " ")+" ", " "+flag+" ")
}
