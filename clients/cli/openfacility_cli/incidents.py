"""`openfacility incidents`: where its commands are."""

from __future__ import annotations

from openfacility_cli._lazy import LazyGroup

incidents = LazyGroup(
    name="incidents",
    help="Find, declare, plan and end incidents.",
    no_args_is_help=True,
    commands_at={
        "list": ("openfacility_cli.incidents_find:list_incidents", "List incidents, newest start first."),
        "show": ("openfacility_cli.incidents_find:show", "Show all about incidents."),
        "declare": ("openfacility_cli.incidents_make:declare", "Say that something is wrong now."),
        "plan": ("openfacility_cli.incidents_make:plan", "Announce maintenance, once or repeated."),
        "update": ("openfacility_cli.incidents_change:update", "Change an incident."),
        "extend": ("openfacility_cli.incidents_change:extend", "Put off the end of an incident."),
        "resolve": ("openfacility_cli.incidents_change:resolve", "End an incident."),
        "cancel": ("openfacility_cli.incidents_change:cancel", "Call incidents off."),
        "note": ("openfacility_cli.incidents_change:note", "Add a note to an incident."),
        "import": ("openfacility_cli.incidents_calendar:import_", "Plan what an iCalendar file says."),
        "export": ("openfacility_cli.incidents_calendar:export", "Print planned incidents as iCalendar."),
    },
)
