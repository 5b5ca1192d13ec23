package diagnose

import (
	"net/netip"
	"path"
	"strings"

	"github.com/whygate/whygate/pinpoint/machine"
	"github.com/whygate/whygate/pinpoint/servers"
)

// from makes a path of a process absolute.
func from(p *machine.Process, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join("/", p.Dir, name)
}

func (d *diagnosis) readHAProxy(m *machine.Machine, p *machine.Process) (machine.Decider, error) {
	c, err := servers.LoadHAProxy(m, servers.DiscoverHAProxy(m, p.Args, p.Dir), servers.Env{Vault: d.c.Vault})
	if c == nil {
		return nil, err
	}
	d.problems = append(d.problems, steps(&c.Problems))
	return c, nil
}

func (d *diagnosis) readLighttpd(m *machine.Machine, p *machine.Process) (machine.Decider, error) {
	c, err := servers.LoadLighttpd(m, from(p, servers.DiscoverLighttpd(p.Args)), servers.Env{Vault: d.c.Vault})
	if c == nil {
		return nil, err
	}
	d.problems = append(d.problems, steps(&c.Problems))
	return c, nil
}

// readCaddy asks the running Caddy for its configuration, since it may differ from the file that it began
// with; else it reads that file.
func (d *diagnosis) readCaddy(m *machine.Machine, p *machine.Process) (machine.Decider, error) {
	env := servers.Env{Vault: d.c.Vault}
	// Another Caddy of this machine may hold the port of the API.
	holder, _ := m.Listening(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 2019))
	if m.Root == "" && !p.Container && holder != nil && holder.PID == p.PID {
		if c, err := servers.RunningCaddy(d.ctx, "", env); err == nil {
			return c, nil
		}
	}
	conf := from(p, servers.DiscoverCaddy(p.Args))
	load := servers.LoadCaddyfile
	if strings.HasSuffix(conf, ".json") {
		load = servers.LoadCaddy
	}
	c, err := load(m, conf, env)
	if c == nil {
		return nil, err
	}
	d.problems = append(d.problems, steps(&c.Problems))
	return c, nil
}
