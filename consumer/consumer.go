// Package consumer knows who calls: applications, the credentials they identify
// themselves with, and the subscriptions and plans that let them use APIs.
//
// A Directory is built once per revision and never changes. Looking up a key costs
// one SHA-256 and one map access, whatever the number of keys.
package consumer

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"github.com/whygate/whygate/reason"
)

// Owner is who answers for an application or an API.
type Owner struct{ Team, Contact string }

// Application is a consumer of APIs.
type Application struct {
	Name      string
	Owner     Owner
	Tenant    string // the organisation it belongs to; "" for none
	Suspended bool
	Source    *reason.Source
}

// Credential identifies an application by a key. The key itself is not kept.
type Credential struct {
	Name        string
	Application *Application
	Prefix      string // of the key; may be shown
	Revoked     bool
	From, Until time.Time // zero for no bound
	Identity    *Identity
	// Secret of an HMAC credential, Hash of a password.
	Secret []byte
	Hash   string
	// Password is Hash as it was read.
	Password *Password
	// Public is the key that signatures are verified with, where the credential has no secret but one half
	// of a key pair: ed25519.PublicKey, *rsa.PublicKey or *ecdsa.PublicKey.
	Public crypto.PublicKey
	Source *reason.Source
}

// State is where a subscription stands in its life.
type State string

// The states.
const (
	Pending   State = "pending"
	Active    State = "active"
	Suspended State = "suspended"
	Rejected  State = "rejected"
	Expired   State = "expired"
)

// Subscription lets an application use an API under a plan.
type Subscription struct {
	Name        string
	Application *Application
	API         string
	Version     string   // "" for all
	Stages      []string // empty for all
	Plan        *Plan
	State       State
	Requested   time.Time
	From, Until time.Time // zero for no bound
	Note        string
	Source      *reason.Source
}

// Covers says that the subscription is for that version and stage.
func (s *Subscription) Covers(version, stage string) bool {
	return (s.Version == "" || s.Version == version) &&
		(len(s.Stages) == 0 || slices.Contains(s.Stages, stage))
}

// StateAt is the state at a moment: an active subscription is pending before its time and
// expired after it, and automatic approval makes a pending one active.
func (s *Subscription) StateAt(t time.Time) State {
	state := s.State
	if state == Pending && s.Plan.Automatic {
		state = Active
	}
	if state == Active && !s.Until.IsZero() && !t.Before(s.Until) {
		return Expired
	}
	return state
}

// Plan is what a subscription allows.
type Plan struct {
	Name      string
	Automatic bool // subscriptions need no approval
	Rate      *Rate
	Quota     *Quota
	Source    *reason.Source
}

// Rate bounds how fast one subscription may call.
type Rate struct {
	Requests, Burst int
	Period          time.Duration
	Source          *reason.Source
}

// Quota bounds how many calls one subscription may make in a calendar period.
type Quota struct {
	Requests int64
	Period   string // hour, day, week, month or year
	Zone     *time.Location
	Source   *reason.Source
}

// Directory finds consumers. It does not change once it is in use.
type Directory struct {
	applications map[string]*Application
	plans        map[string]*Plan
	byHash       map[[sha256.Size]byte]*Credential
	byPrefix     map[string][]*Credential
	byName       map[named]*Credential
	subscribed   map[subscribed][]*Subscription
	passwords    map[string]samePasswords // by cost
}

// samePasswords are so many passwords that cost the same, and one of them.
type samePasswords struct {
	n   int
	one *Password
}

// named is how a credential is called by those who use it: a user name, a key id, a client id.
type named struct{ kind, name string }

type subscribed struct {
	application *Application
	api         string
}

// NewDirectory returns an empty directory, to be filled before it is used.
func NewDirectory() *Directory {
	return &Directory{
		applications: map[string]*Application{},
		plans:        map[string]*Plan{},
		byHash:       map[[sha256.Size]byte]*Credential{},
		byPrefix:     map[string][]*Credential{},
		byName:       map[named]*Credential{},
		subscribed:   map[subscribed][]*Subscription{},
		passwords:    map[string]samePasswords{},
	}
}

// AddApplication adds an application.
func (d *Directory) AddApplication(a *Application) { d.applications[a.Name] = a }

// AddPlan adds a plan.
func (d *Directory) AddPlan(p *Plan) { d.plans[p.Name] = p }

// AddCredential adds a credential under the SHA-256 of its key. It reports false when that
// key identifies somebody already.
func (d *Directory) AddCredential(hash [sha256.Size]byte, c *Credential) bool {
	if d.byHash[hash] != nil {
		return false
	}
	d.byHash[hash] = c
	d.byPrefix[c.Prefix] = append(d.byPrefix[c.Prefix], c)
	return true
}

// AddNamed adds a credential of a kind (basic, hmac, certificate, token) under its name. It reports
// false when that name identifies somebody already.
func (d *Directory) AddNamed(kind, name string, c *Credential) bool {
	k := named{kind, name}
	if d.byName[k] != nil {
		return false
	}
	d.byName[k] = c
	if p := c.Password; p != nil {
		s := d.passwords[p.cost]
		if s.n++; s.one == nil {
			s.one = p
		}
		d.passwords[p.cost] = s
	}
	return true
}

// Passwords are one password of each cost, that of most credentials first.
func (d *Directory) Passwords() []*Password {
	costs := slices.Sorted(maps.Keys(d.passwords))
	slices.SortStableFunc(costs, func(a, b string) int { return cmp.Compare(d.passwords[b].n, d.passwords[a].n) })
	list := make([]*Password, len(costs))
	for i, c := range costs {
		list[i] = d.passwords[c].one
	}
	return list
}

// Named finds a credential of a kind by its name, or nil.
func (d *Directory) Named(kind, name string) *Credential { return d.byName[named{kind, name}] }

// CountsAt says that a credential is neither revoked nor outside of its time.
func (c *Credential) CountsAt(t time.Time) bool {
	return !c.Revoked && !t.Before(c.From) && (c.Until.IsZero() || t.Before(c.Until))
}

// CredentialOf is a credential of an application for one of the methods (key-auth, basic, hmac, mtls): the first by name of
// those that count at a time, else of the others; nil if there is none. It looks at all that there are.
func (d *Directory) CredentialOf(a *Application, methods []string, at time.Time) (best *Credential) {
	look := func(c *Credential) {
		if c.Application != a || c.Identity == nil || !slices.Contains(methods, c.Identity.Method) {
			return
		}
		if best == nil || c.CountsAt(at) && !best.CountsAt(at) || c.CountsAt(at) == best.CountsAt(at) && c.Name < best.Name {
			best = c
		}
	}
	for _, c := range d.byHash {
		look(c)
	}
	for _, c := range d.byName {
		look(c)
	}
	return best
}

// AddSubscription adds a subscription.
func (d *Directory) AddSubscription(s *Subscription) {
	k := subscribed{s.Application, s.API}
	d.subscribed[k] = append(d.subscribed[k], s)
	// What serves best stands first, so that the usual call looks at one.
	slices.SortStableFunc(d.subscribed[k], func(a, b *Subscription) int { return cmp.Compare(rank[a.State], rank[b.State]) })
}

var rank = map[State]int{Active: 0, Pending: 1, Suspended: 2, Expired: 3, Rejected: 4}

// Application finds an application by name, or nil.
func (d *Directory) Application(name string) *Application { return d.applications[name] }

// Names are the names of all applications, of the teams that own some and of the tenants that they
// belong to, all sorted.
func (d *Directory) Names() (applications, teams, tenants []string) {
	for _, a := range d.applications {
		applications = append(applications, a.Name)
		if a.Owner.Team != "" {
			teams = append(teams, a.Owner.Team)
		}
		if a.Tenant != "" {
			tenants = append(tenants, a.Tenant)
		}
	}
	slices.Sort(applications)
	slices.Sort(teams)
	slices.Sort(tenants)
	return applications, slices.Compact(teams), slices.Compact(tenants)
}

// Plan finds a plan by name, or nil.
func (d *Directory) Plan(name string) *Plan { return d.plans[name] }

// Credential finds whom a key identifies, or nil. Keys are long random texts, so a plain
// hash is enough to store and to compare them.
func (d *Directory) Credential(key []byte) *Credential {
	return d.byHash[sha256.Sum256(key)]
}

// WithPrefix finds credentials whose keys begin with prefix.
func (d *Directory) WithPrefix(prefix string) []*Credential { return d.byPrefix[prefix] }

// Subscriptions are those of an application to an API, the most useful first.
func (d *Directory) Subscriptions(a *Application, api string) []*Subscription {
	return d.subscribed[subscribed{a, api}]
}

// Counts of what the directory holds.
func (d *Directory) Counts() (applications, credentials, subscriptions int) {
	for _, s := range d.subscribed {
		subscriptions += len(s)
	}
	return len(d.applications), len(d.byHash) + len(d.byName), subscriptions
}

// Plans are all plans, in no order.
func (d *Directory) Plans() []*Plan {
	plans := make([]*Plan, 0, len(d.plans))
	for _, p := range d.plans {
		plans = append(plans, p)
	}
	return plans
}
