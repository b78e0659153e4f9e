"""The stories: rules in a small language that ``templates`` reads.

A rule is a list of ``weight | template``. In a template

========================  ======================================================================================
text                      stands for itself; a space before a word belongs to the word
``{place}``               a word of this category, remembered under the category's name
``{elder:relative}``      the same, remembered as ``elder``
``{friend:name!hero}``    any but the one remembered as ``hero``
``{flower.plural}``       in another form
``{kin:@place.animals}``  of the category that the remembered place names as its ``animals``
``{=hero}``               the remembered word; ``{=hero.his}`` in another form, ``{=hero.He}`` with a capital
``[go]`` ``[go+]``        a verb in the story's tense: what one does, what several do
``[*motion verb]``        a verb of this category; ``[=chore]`` is the remembered one
``<close>``               a rule; ``<@weather.sky>`` is the rule that the remembered weather names
``$``                     the end of the story
========================  ======================================================================================

"a" turns into "an" where the next word asks for it. The tense is drawn at a story's first verb.
"""

# ruff: noqa: E501 - a template is one line

from __future__ import annotations

START = "story"

RULES: dict[str, str] = {
    "story": """
        10 | <outing> <outdoors>
        6 | <once> <anywhere>
        3 | <royal>
    """,
    # who and where -----------------------------------------------------------------------------------------------
    "outing": """
        5 | One {weather} {time of day}, {hero:name} [go] to the {place}. <@weather.sky>
        4 | It [be] a {weather} {time of day}. {hero:name} [put] on {=hero.his} {clothes:@weather.clothes} and [*motion verb] to the {place}.
        3 | On {weekday}, {hero:name} [take] the {vehicle} to the {place} with {=hero.his} {relative}.
        2 | In {season}, {hero:name} often [go] to the {place}. <@season.sky>
    """,
    "sun sky": """
        3 | The sun [shine] and the sky [be] blue.
        2 | {=hero.He} [wear] {=hero.his} {colour} {clothes:sun clothes}.
        1 | It [be] so {warmth:sun weather} that {=hero.he} [eat] ice cream.
    """,
    "rain sky": """
        3 | The rain [fall] and the ground [be] wet.
        2 | {=hero.He} [wear] {=hero.his} {colour} {clothes:rain clothes}.
        1 | It [rain] so much that {=hero.he} [jump] in the puddles.
    """,
    "snow sky": """
        3 | The snow [fall] and the hills [be+] white.
        2 | {=hero.He} [wear] {=hero.his} {colour} {clothes:snow clothes}.
        1 | It [snow] so much that {=hero.he} [build] a snowman.
    """,
    "wind sky": """
        3 | The wind [blow] and the trees [shake+].
        2 | {=hero.He} [wear] {=hero.his} {colour} {clothes:wind clothes}.
        1 | It [blow] so much that {=hero.he} [fly] a kite.
    """,
    "once": """
        5 | Once upon a time, there [be] a {trait} {child} named {hero:@child.names}. <home>
        3 | There once [be] a {trait} {kind:animal} named {hero:name}. <home>
    """,
    "home": """
        3 | {=hero.He} [live] in a {size} {home} made of {material}.
        2 | {=hero.He} [live] with {=hero.his} {relative} near the {place}.
    """,
    # what happens outdoors ---------------------------------------------------------------------------------------
    "outdoors": """
        6 | There {=hero.he} [see] a {size} {beast:@place.animals} <where>. <beast>
        4 | There {=hero.he} [see] {herd_size:few} {herd:@place.animals.plural} <where>. <herd>
        4 | There {=hero.he} [find] a {look} {treasure} <where>. <treasure>
        4 | There {=hero.he} [meet] {=hero.his} friend {friend:name!hero}. <friend>
        3 | Suddenly, {=hero.he} [hear] a noise. <noise>
        3 | But then {=hero.he} [fall] and [hurt] {=hero.his} {body part}. <hurt>
        3 | But then {=hero.he} [lose] {=hero.his} {colour} {toy}. <lost>
        3 | First, {=hero.he} [pick] {bunch:number} {colour} {flower.plural}. <flowers>
        2 | Soon a storm [begin]. <storm>
    """,
    "where": """
        3 | near the {landmark}
        3 | behind the {landmark}
        2 | under the {landmark}
        1 | by the {landmark}
    """,
    "beast": """
        4 | The {=beast} [be] {hungry feeling}, so {=hero} [give] it some {@beast.food}. <thanks>
        3 | The {=beast} [be] {scared feeling} and [*scared verb]. "Don't be afraid," [say] {=hero}. <close>
        3 | The {=beast} [be] {sad feeling} and [*sad verb]. "I can help you," [say] {=hero}. <thanks>
        2 | The {=beast} [be] {tired feeling} and [*tired verb] in the grass. {=hero} [walk] away {adverb}. <close>
    """,
    "thanks": """
        3 | Then the {=beast} [be] {glad feeling}. <close>
        2 | "Thank you, {=hero}!" [say] the {=beast}. <close>
        2 | From that day on, the {=beast} and {=hero} [be+] friends. <end>
    """,
    "herd": """
        3 | "{=herd_size.Count}!" [count] {=hero}. Then one {=herd} [*motion verb] away, and only {=herd_size.less} {=herd.plural} [be+] left. <close>
        3 | The {=herd.plural} [be+] {hungry feeling}, so {=hero} [give] them some {@herd.food}. <close>
        2 | All {=herd_size} {=herd.plural} [*motion verb+] away {adverb}. {=hero.He} [be] {sad feeling}. <end>
    """,
    "treasure": """
        3 | "Wow!" [say] {=hero}. "What a {=look} {=treasure}!" {=hero.He} [give] the {=treasure} to {=hero.his} {elder:relative}. <gift>
        2 | {=hero.He} [put] the {=treasure} in {=hero.his} pocket and [*motion verb] home. <close>
        2 | "Is this your {=treasure}?" {=hero.he} [ask] a {beast:animal}. "Yes, it is my {=treasure}," [say] the {=beast}. <thanks>
    """,
    "gift": """
        2 | "Thank you, {=hero}!" [say] {=hero.his} {=elder}. <close>
        1 | {=hero.His} {=elder} [be] {glad feeling}. <end>
    """,
    "friend": """
        4 | "Hello, {=hero}!" [say] {=friend}. "Let's play {game}!" They [play+] {=game} all {time of day}. <tired>
        3 | {=friend} [have] a {colour} {toy}. "Can I play with your {=toy}?" [ask] {=hero}. <asked>
        3 | {=hero.He} [have] {count:many} {fruit.plural} and [give] one to {=friend}. Now {=hero.he} [have] {=count.less} {=fruit.plural}. <shared>
        2 | {=friend} [be] {angry feeling} and [*angry verb]. "You have my {toy}!" <quarrel>
    """,
    "asked": """
        3 | "Yes," [say] {=friend}. They [play+] with the {=colour} {=toy} together. <close>
        2 | "No," [say] {=friend}. {=hero} [be] {sad feeling} and [*sad verb]. Then {=friend} [give] {=hero.him} the {=toy}. <lesson>
    """,
    "shared": """
        2 | "Thank you," [say] {=friend}. "I love {=fruit.plural}!" <close>
        1 | They [eat+] and [*glad verb+]. <end>
    """,
    "quarrel": """
        1 | {=hero} [give] the {=toy} to {=friend}. "I am sorry," [say] {=hero}. <lesson>
        1 | "No, it is my {=toy}!" [say] {=hero}. Then they [share+] the {=toy}. <lesson>
    """,
    "noise": """
        3 | "{noisy:noisy animal.Noise}, {=noisy.noise}!" It [be] a {=noisy}. <noisy>
    """,
    "noisy": """
        2 | {=hero} [be] {scared feeling} and [*scared verb]. But the {=noisy} only [want] to play. <close>
        2 | "Hello, {=noisy}," [say] {=hero}. "{=noisy.Noise}!" [say] the {=noisy}. <close>
    """,
    "hurt": """
        3 | "Ouch! My {=body part}!" [cry] {=hero}. {=hero.His} {elder:relative} [kiss] the {=body part} and [*speech verb], "It will be fine." <close>
        2 | {=hero} [be] {sad feeling} and [*sad verb]. A {trait} {beast:animal} [help] {=hero.him}. <thanks>
    """,
    "lost": """
        3 | "Where is my {=toy}?" [ask] {=hero}. {=hero.He} [be] {sad feeling} and [*sad verb]. <search>
        2 | {=hero} [look] for the {=toy} <where>. {=hero.He} [find] it <where>. <close>
    """,
    "search": """
        3 | {friend:name!hero} [look] <where>. "Here is your {=toy}!" [say] {=friend}. <close>
        2 | A {trait} {beast:animal} [bring] the {=colour} {=toy} back. <thanks>
    """,
    "flowers": """
        3 | {=hero.He} [give] the {=colour} {=flower.plural} to {=hero.his} {elder:relative}. "What {=colour} {=flower.plural}!" [say] {=hero.his} {=elder}. <close>
        2 | Then {=hero.he} [see] a {insect} on a {=flower}. The {=insect} [be] {tired feeling}. <close>
    """,
    "storm": """
        2 | {=hero} [be] {scared feeling} and [*scared verb] <where>. Then the storm [end]. <close>
        2 | {=hero.He} [*motion verb] home {adverb} and [drink] some {drink}. <close>
    """,
    # what happens anywhere ---------------------------------------------------------------------------------------
    "anywhere": """
        4 | Today {=hero.he} [be] {age:number} years old. <birthday>
        4 | {=hero.He} [want] to be a {job}. <job>
        3 | On {weekday}, {=hero.he} [plant] a {flower}. <week>
        3 | {=hero.He} [have] a {pet} named {pet name}. <pet>
        3 | {=hero.He} [love] to play the {instrument}. <song>
        3 | One {time of day}, {=hero} [help] {=hero.his} {elder:relative} make {dish}. <cook>
        3 | One {time of day}, {=hero} [ask] for help. <chore>
        3 | One {time of day}, {=hero} [be] {tired feeling}. <bed>
        2 | One {time of day}, {=hero} [lose] {=hero.his} {toy}. <house>
        3 | {=hero.He} [be] never {glad feeling}. <sad>
    """,
    "birthday": """
        3 | {=hero.His} cake [have] {=age} candles. <present>
        2 | {=hero.His} {elder:relative} [bake] {=age} {sweet.plural}. <present>
    """,
    "present": """
        3 | {friend:name!hero} [give] {=hero.him} a {colour} {toy}. "Thank you, {=friend}!" [say] {=hero}. "I love my {=colour} {=toy}!" <close>
        2 | "Happy birthday, {=hero}!" [say] {=hero.his} {elder:relative}. They [eat+] some {sweet.plural} and [drink+] some {drink}. <close>
    """,
    "job": """
        3 | "I want to {=job.task}," [say] {=hero}. Every {weekday}, {=hero.he} [help] a {=job}. <grown>
        2 | {=hero.His} {elder:relative} [be] a {=job} too. "A {=job} can {=job.task}," [say] {=hero.his} {=elder}. <grown>
    """,
    "grown": """
        2 | Soon {=hero} [know] how to {=job.task}. <close>
        1 | Now {=hero} [be] a {trait:trait} {=job}. <end>
    """,
    "week": """
        1 | On {=weekday.next}, it [rain]. On {=weekday.later}, the sun [shine]. Soon the {=flower} [be] {size} and {colour}. <close>
        1 | On {=weekday.next}, a {kin:farm animal} [eat] the {=flower}. {=hero.He} [be] {angry feeling} and [*angry verb]. <lesson>
    """,
    "pet": """
        3 | {=pet name} [be] {hungry feeling}, so {=hero} [give] {=pet name} some {pet food}. <petted>
        3 | One day, {=pet name} [hide] in the {room}. {=hero} [look] under the {furniture}. "There you are, {=pet name}!" [say] {=hero}. <petted>
        2 | {=pet name} [be] {tired feeling} and [*tired verb] on the {furniture}. <petted>
    """,
    "petted": """
        2 | {=hero} and {=pet name} [be+] {glad feeling}. <end>
        2 | {=hero} [hug] the {=pet}. <close>
    """,
    "song": """
        2 | {=hero} [sing], "{a:chant.Same}, {b:chant}, {c:chant}!" {friend:name!hero} [sing], "{=a.Same}, {=b}, {=c}!" <sung>
        1 | Every {time of day}, {=hero.he} [play] the {=instrument} {adverb}. <sung>
    """,
    "sung": """
        2 | Everybody [*glad verb]. <close>
        1 | They all [*glad verb+] and [sing+], "{d:chant.Same}, {=d}, {=d}!" <end>
    """,
    "cook": """
        3 | They [wash+] {n:number} {vegetable.plural} and [cut+] the {=vegetable.plural} {adverb}. The {=dish} [be] {good}. <close>
        2 | They [need+] a {vegetable} and a {fruit}. "Here is the {=vegetable}," [say] {=hero}. "And here is the {=fruit}." <close>
    """,
    "chore": """
        1 | "Who will help me {chore} {=chore.rest}?" "Not I," [say] the {first:animal}. "Not I," [say] the {second:animal!first}. "Then I will {=chore} {=chore.rest}," [say] {=hero}. <lesson>
        1 | "Who will help me {chore} {=chore.rest}?" "I will," [say] the {first:animal}. They [*glad verb+] and [=chore+] {=chore.rest} together. <close>
    """,
    "bed": """
        2 | {=hero.His} {elder:relative} [read] a story about a {size} {dream:animal}. "Good night, {=hero}," [say] {=hero.his} {=elder}. {=hero} [*tired verb] and [dream] about the {=dream}. <end>
        1 | {=hero.He} [go] to bed and [*tired verb]. In a dream, {=hero.he} [ride] a {size} {dream:animal} over the {place}. <end>
    """,
    "house": """
        2 | {=hero} [look] in the {room}. {=hero} [look] under the {furniture}. The {=toy} [be] in the {hiding:room!room}! <close>
        1 | "It is under the {furniture}," [say] {=hero.his} {elder:relative}. {=hero} [look] under the {=furniture}. <close>
    """,
    "sad": """
        1 | {=hero} [*sad verb] and [*speech verb], "I am so {sad feeling}." Then {=hero.he} [meet] {friend:name!hero}. <friend>
        1 | But then {=hero.he} [lose] {=hero.his} {colour} {toy}. <lost>
    """,
    # kings and others --------------------------------------------------------------------------------------------
    "royal": """
        1 | Long ago, a {trait} {royal} [have] a {look} {treasure}. One {time of day}, the {=treasure} [be] gone. <asking>
    """,
    "asking": """
        2 | "Who has my {=treasure}?" [ask] the {=royal}. "Not I," [say] the {first:zoo animal}. "Not I," [say] the {second:farm animal}. "I have it," [say] the {third:quick animal}. <returned>
        1 | The {=royal} [be] {angry feeling} and [*angry verb]. "Where is my {=treasure}?" [ask] the {=royal}. "It is <where>," [say] the {third:quick animal}. <returned>
    """,
    "returned": """
        2 | The {=third} [give] the {=treasure} back. The {=royal} [be] {glad feeling} again. <coda>
        1 | The {=royal} [laugh] and [give] the {=third} a {colour} {toy}. <coda>
    """,
    # how it ends -------------------------------------------------------------------------------------------------
    "tired": """
        2 | Now they [be+] {tired feeling}. <end>
        1 | Then {=hero} [go] home and [*tired verb]. <coda>
    """,
    "close": """
        3 | {=hero} [be] {glad feeling}. <coda>
        2 | {=hero} [be] {glad feeling} and [*glad verb]. <coda>
        2 | It [be] a {good} day. <coda>
        2 | "What a {good} day!" [say] {=hero}. <coda>
        1 | {=hero} [*glad verb] and [go] home. <coda>
    """,
    "lesson": """
        2 | {=hero} [learn] to {lesson} {=lesson.rest}. <coda>
        1 | "It is good to {lesson} {=lesson.rest}," [say] {=hero}. <coda>
    """,
    "end": """
        3 | $
        1 | It [be] a {good} day. <coda>
        1 | The end.$
    """,
    "coda": """
        4 | $
        1 | The end.$
    """,
}
